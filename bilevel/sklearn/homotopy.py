"""The solutions of a lasso at every strength, from which the solves on the folds start.

They are piecewise linear in the strength, so a path of some hundred breakpoints holds all of them (Osborne et al.,
2000; Efron et al., 2004). Coordinate descent needs thousands of rounds for each one where a fold has as many
coefficients as rows. `newton` makes a start exact, and says whether it is.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path

from bilevel.sklearn.folds import Folds
from bilevel.sklearn.statements import Kind

LARGEST = 2e9  # rows * features * breakpoints up to which a path takes no longer than some solves
BELOW = 4.0  # a path goes on to the strength asked for over this number, because the next one asked for is near
TURNS = 4  # breakpoints of a path, for each coefficient that can be nonzero


class Path(NamedTuple):
    """A lane's solutions at its breakpoints, linear between them."""

    strengths: np.ndarray  # (breakpoints,), falling
    columns: np.ndarray  # (k,): the features that have a coefficient somewhere on the path
    coefficients: np.ndarray  # (breakpoints, k)
    means: np.ndarray  # of the inputs, (features,)
    mean: float  # of the targets

    def at(self, strength: float, features: int, intercept: bool) -> np.ndarray:
        """(features + intercept,)"""
        place = float(np.interp(-strength, -self.strengths, np.arange(len(self.strengths))))
        low = min(int(place), max(len(self.strengths) - 2, 0))
        high, share = min(low + 1, len(self.strengths) - 1), place - low
        params = np.zeros(features + intercept)
        params[self.columns] = (1 - share) * self.coefficients[low] + share * self.coefficients[high]
        if intercept:
            params[-1] = self.mean - self.means @ params[:-1]
        return params


def applies(kind: Kind, rows: int) -> bool:
    """Whether this is a lasso of one target whose paths are short."""
    breakpoints = min(rows, kind.features)
    plain = kind.loss == "squared" and kind.reduction == "mean" and kind.l1 and not (kind.l2 or kind.columns)
    return plain and rows * kind.features * breakpoints <= LARGEST


def path_of(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray, intercept: bool, least: Any) -> Path:
    """The path of 1/2 sum_i s_i (x_i'w + b - y_i)^2 / sum_i s_i + strength sum_j |w_j| down to the least strength."""
    there = weights > 0
    x, y, own = inputs[there], targets[there], weights[there] / np.mean(weights[there])
    means = np.average(x, axis=0, weights=own) if intercept else np.zeros(x.shape[1])
    mean = float(np.average(y, weights=own)) if intercept else 0.0
    roots = np.sqrt(own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a path that ends early still gives a start
        strengths, _, coefficients = lars_path(
            (x - means) * roots[:, None],
            (y - mean) * roots,
            method="lasso",
            alpha_min=least,
            max_iter=TURNS * min(x.shape),
            Gram=None,
        )
    columns = np.flatnonzero(np.any(coefficients != 0, axis=1))
    return Path(strengths, columns, coefficients[columns].T.copy(), means, mean)


class Paths:
    """A path for each lane that counts, longer whenever a smaller strength is asked for."""

    def __init__(self, kind: Kind, folds: Folds, targets: np.ndarray, used: np.ndarray) -> None:
        self.kind, self.folds, self.targets, self.used = kind, folds, targets, used
        self.least = np.inf
        self.paths: list[Path | None] = []

    def at(self, strength: float) -> np.ndarray:
        """The solution of each lane, (lanes, features + intercept, 1); zeros where a lane does not count."""
        if strength < self.least:
            self.least = strength / BELOW
            self.paths = [self._path(lane) if used else None for lane, used in enumerate(self.used)]
        size = self.kind.features, self.kind.intercept
        found = [np.zeros(sum(size)) if path is None else path.at(strength, *size) for path in self.paths]
        return np.stack(found)[..., None]

    def _path(self, lane: int) -> Path:
        inputs = self.folds.inputs if self.folds.inputs.ndim == 2 else self.folds.inputs[lane]
        return path_of(inputs, self.targets[lane], self.folds.train[lane], self.kind.intercept, self.least)
