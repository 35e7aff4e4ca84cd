"""Stein's unbiased estimate of the risk: the choice of a penalty without folds, where the noise is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from bilevel.sklearn.folds import Data, Folds

PROBES = 5  # random directions; the estimate of the degrees of freedom is the mean over them


def of_the_risk(folds: Folds, data: Data, noise: Any, seed: Any) -> Folds:
    """Lanes whose mean loss is SURE / (2 n), from one lane with all rows.

        SURE = ||y - Xw(y)||^2 - n s^2 + 2 s^2 dof,    dof = mean_d d'(Xw(y + e d) - Xw(y)) / e

    with s the deviation of the noise, normal directions d and e = 2 s / n^0.3. The difference is finite on purpose:
    the number of nonzero coefficients of a lasso jumps, and its derivative is zero. Each lane has its own targets,
    y + e d, and its share of the sum. Source: Stein, 1981; Deledalle et al., 2014.
    """
    y, rows = np.asarray(data.targets), len(data.targets)
    if y.ndim != 1 or np.any(data.weights != data.weights[0]):
        raise ValueError("criterion='sure' takes one target and no sample_weight: use criterion='cv'.")
    deviation = deviation_of(folds.inputs.reshape(rows, -1), y) if noise == "auto" else float(noise)
    directions = check_random_state(seed).standard_normal((PROBES, rows))
    step = 2 * deviation / rows**0.3
    lanes = 1 + PROBES
    share = lanes * deviation**2 / (rows * step * PROBES)
    linear = np.vstack([-share * np.sum(directions, axis=0), share * directions])
    squares = np.zeros((lanes, rows))
    squares[0] = lanes / rows
    constant = np.zeros(lanes)
    constant[0] = -0.5 * lanes * deviation**2
    targets = np.vstack([y, y + step * directions])
    inputs = folds.inputs if folds.inputs.ndim == 2 else folds.inputs[0]
    return Folds(inputs, np.tile(folds.train, (lanes, 1)), squares, folds.splits, targets, linear, constant)


def deviation_of(inputs: np.ndarray, targets: np.ndarray) -> float:
    """The deviation of the noise, from the residuals of least squares."""
    design = np.column_stack([inputs, np.ones(len(inputs))])
    found, _, rank, _ = np.linalg.lstsq(design, targets, rcond=None)
    left = len(targets) - rank
    if left < 1:
        raise ValueError(
            f"{len(targets)} rows of {inputs.shape[1]} columns leave no residual to estimate the noise from: give its "
            "standard deviation by noise=."
        )
    return float(np.linalg.norm(targets - design @ found) / np.sqrt(left))
