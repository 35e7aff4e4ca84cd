"""Classifiers to compare task-driven dictionary learning with, and what they are judged by. Samples that a fit must not
see have weight zero, so that every split and every fit of a classifier shares one compiled program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.penalties import L1, Penalty, Zero
from bilevel.problem import InnerProblem
from bilevel.solvers import LBFGS, ProximalGradient, Solver
from bilevel.tasks.grids import highest

Masks = Mapping[str, Any]  # weights 0 and 1 of the samples, for "train", "validation" and "test"


def auc(scores: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """The share of pairs (one of class 1, one of class 0, both of weight 1) that the scores put in order; ties half.

    >>> float(auc(jnp.array([3.0, 1.0, 2.0, 9.0]), jnp.array([1, 0, 1, 0]), jnp.array([1.0, 1.0, 1.0, 0.0])))
    1.0
    """
    pairs = (weight * labels)[:, None] * (weight * (1 - labels))[None, :]
    ahead = jnp.sign(scores[:, None] - scores[None, :])
    return 0.5 + 0.5 * jnp.sum(pairs * ahead) / jnp.sum(pairs)


def log_loss(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Scalar:
    """The weighted mean of the logistic loss, labels 0 and 1."""
    return jnp.sum(weight * jnp.logaddexp(0.0, (1 - 2 * labels) * logits)) / jnp.sum(weight)


def logits_of(params: Params, inputs: jax.Array) -> jax.Array:
    return inputs @ params["slope"] + params["offset"]


def classifier(features: int, sparse: bool) -> InnerProblem:
    """Logistic regression, mean loss + strength (1/2 ||slope||^2 or ||slope||_1), on batches (inputs, labels, weight).

    ``hparams`` is the strength, 1 / (C n) in scikit-learn's terms; the offset is free.
    """

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        inputs, labels, weight = batch
        ridge = 0.0 if sparse else 0.5 * hparams * jnp.sum(params["slope"] ** 2)
        return log_loss(logits_of(params, inputs), labels, weight) + ridge

    def weights(hparams: HParams) -> dict[str, jax.Array]:
        return {"offset": jnp.zeros(()), "slope": jnp.full(features, hparams)}

    solver: Solver = ProximalGradient(max_steps=500, tol=1e-4) if sparse else LBFGS(max_steps=300, tol=1e-5)
    penalty: Penalty = L1(weight=weights) if sparse else Zero()
    init = lambda key, hparams: {"offset": jnp.zeros(()), "slope": jnp.zeros(features)}
    return InnerProblem(loss=loss, init=init, penalty=penalty, solver=solver)


def fits_of(problem: InnerProblem) -> Program:
    """The program (C, inputs, labels, weight, masks) -> AUC of the classifier, which is fitted to the samples with this
    weight, on the validation and on the test samples."""

    def judged(
        c: jax.Array, inputs: jax.Array, labels: jax.Array, weight: jax.Array, masks: Masks
    ) -> dict[str, jax.Array]:
        params = problem.solve(1 / (c * jnp.sum(weight)), (inputs, labels, weight)).params
        return {part: auc(logits_of(params, inputs), labels, masks[part]) for part in ("validation", "test")}

    return Program(judged)


class Chosen(NamedTuple):
    """AUC on the validation samples, by which something was chosen, and on the test samples, after a new fit."""

    validation: float
    test: float
    left_out: int  # fits whose score is not finite


def chosen_auc(
    fits: Program, inputs: jax.Array, labels: jax.Array, masks: Masks, grid: Sequence[float], anew: bool = True
) -> Chosen:
    """The AUC of the classifier of these `fits_of` whose C of the grid is best on the validation samples; for the test
    it is fitted ``anew`` on training and validation samples together, or left as it is fitted to the training samples.
    """
    found = [fits(c, inputs, labels, masks["train"], masks) for c in grid]
    best = highest([float(one["validation"]) for one in found])
    if not math.isfinite(best.score):
        return Chosen(math.nan, math.nan, best.left_out)
    both = masks["train"] + masks["validation"]
    last = fits(grid[best.index], inputs, labels, both, masks) if anew else found[best.index]
    return Chosen(best.score, float(last["test"]), best.left_out)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean, and half of its 95 % interval, 1.96 standard errors."""
    return float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))


def masks_of(labels: np.ndarray, seed: int, shares: tuple[float, float] = (0.6, 0.2)) -> dict[str, np.ndarray]:
    """Weights 0 and 1 of a random split, each class by itself, into training, validation and the rest for the test."""
    random = np.random.default_rng(seed)
    part = np.full(len(labels), 2)
    for label in np.unique(labels):
        where = random.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(shares) * len(where)).astype(int)
        part[where[: ends[0]]] = 0
        part[where[ends[0] : ends[1]]] = 1
    return {name: (part == number).astype(float) for number, name in enumerate(("train", "validation", "test"))}
