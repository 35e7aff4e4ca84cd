"""The lasso with one penalty, on data where most features are noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import full_batch
from bilevel.foundation.typing import HParams, Params
from bilevel.losses.linear import Linear
from bilevel.penalties import L1
from bilevel.problem import InnerProblem
from bilevel.task import Headline, Task
from bilevel.tasks import pictures, regression
from bilevel.tasks.grids import lowest

SHOWN = 40  # coefficients in the figure, or its labels could not be read
GRID = 31  # penalties of the baseline, from the largest that selects anything down to a thousandth of it


def lasso(
    *,
    data: str = "diabetes",
    root: str = "",
    noise_features: int = 90,
    train: int = 200,
    validation: int = 100,
    stop: int = 0,
    start: float = 0.01,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """One penalty on log scale for a sparse linear regression.

        inner:  1/2 mean (Xw - y)^2 + exp(h) ||w||_1      on the training set, with ``noise_features`` columns of noise
        outer:  1/2 mean (Xw - y)^2                       on the validation set

    The penalty starts at ``start`` times the smallest one for which w = 0. Inputs and targets are standardised with the
    statistics of the training set. ``stop`` samples are a second hold-out; the remaining samples are the test set.
    Metrics: test/loss, test/r2, stop/loss, lasso/selected and lasso/selected_noise (how many features have a
    coefficient that is not zero, and how many of these are noise). Baseline: the penalty of a grid of 31 that is the
    best on the validation set.

    Source: Bertrand et al., Implicit differentiation of Lasso-type models for hyperparameter optimization, 2020.
    """
    found = data_sets.add_noise_features(data_sets.regression(data, root), noise_features, seed + 1)
    splits = data_sets.standardise(data_sets.split(found, train, validation, stop, seed), targets=True)
    training, validating, stopping, test = (regression.samples(part) for part in splits)
    features = training[0].shape[1]
    largest = float(np.max(np.abs(training[0].T @ training[1])) / train)
    real = features - noise_features
    inner = InnerProblem(
        loss=Linear(lambda batch: batch[0], lambda z, params, hparams, batch: 0.5 * jnp.mean((z - batch[1]) ** 2)),
        init=lambda key, hparams: jnp.zeros(features),
        penalty=L1(weight=jnp.exp),
    )

    def evaluate(params: Params, hparams: HParams) -> dict[str, Any]:
        selected = params != 0
        return {
            **regression.held_out(params, test, stopping),
            "lasso/selected": jnp.sum(selected),
            "lasso/selected_noise": jnp.sum(selected[real:]),
        }

    def baselines() -> dict[str, float]:
        grid = np.log(largest) + np.log(np.logspace(0, -3, GRID))
        fits = jax.jit(lambda grid, train: jax.lax.map(lambda penalty: inner.solve(penalty, train).params, grid))(
            grid, training
        )
        best = lowest((regression.mean_loss(params, validating) for params in fits), "the grid of penalties")
        validated = regression.mean_loss(fits[best], validating)
        scores = {"validation_loss": validated, **evaluate(fits[best], grid[best])}
        return {"baseline/penalty": np.exp(grid[best]), **{f"baseline/{name}": score for name, score in scores.items()}}

    return Task(
        inner=inner,
        outer_loss=lambda params, hparams, batch: regression.mean_loss(params, batch),
        init_hparams=lambda key: jnp.log(start * largest),
        batches=full_batch(training, validating),
        evaluate=evaluate,
        baselines=baselines,
        figures={"coefficients": lambda result: coefficients(np.asarray(result.params), found.features, real)},
        precision=precision,
        name="lasso",
        headline=Headline("test/r2", "test R2", {"baseline/test/r2": "by a grid of penalties"}),
        natural=lambda hparams: {"penalty": np.exp(hparams)},
    )


def coefficients(params: np.ndarray, names: tuple[str, ...], real: int) -> Any:
    """The largest coefficients: as many as are not zero, and at least as many as features that are no noise."""
    chosen = max(real, np.count_nonzero(params))
    order = np.argsort(-np.abs(params))[: min(chosen, SHOWN)]
    label = "coefficient" if len(order) == chosen else f"coefficient, the {SHOWN} largest of {chosen}"
    return pictures.bars([names[number] for number in order], params[order], label)
