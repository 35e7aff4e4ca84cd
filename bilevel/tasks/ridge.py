"""Ridge regression with a penalty for each feature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import full_batch
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.linear import Linear
from bilevel.problem import InnerProblem
from bilevel.task import Headline, Task
from bilevel.tasks import pictures, regression
from bilevel.tasks.grids import lowest


def ridge(
    *,
    data: str = "diabetes",
    root: str = "",
    train: int = 200,
    validation: int = 100,
    stop: int = 0,
    start: float = -3.0,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """One penalty on log scale for each feature of a linear regression.

        inner:  1/2 mean (Xw - y)^2 + 1/2 sum_j exp(h_j) w_j^2      on the training set
        outer:  1/2 mean (Xw - y)^2                                 on the validation set

    Inputs and targets are standardised with the statistics of the training set, so there is no intercept; all penalties
    start at exp(``start``). ``stop`` samples are a second hold-out; the remaining samples are the test set. Metrics:
    test/loss, test/r2 (the share of the variance that is explained), stop/loss. Baseline: one penalty for all features,
    the best of a grid on the validation set.

    The derivative has a closed form: with A = X'X/n + diag(exp h), dw_j/dh_k = -[A^-1]_jk exp(h_k) w_k.
    """
    found = data_sets.regression(data, root)
    splits = data_sets.standardise(data_sets.split(found, train, validation, stop, seed), targets=True)
    training, validating, stopping, test = (regression.samples(part) for part in splits)
    features = training[0].shape[1]

    def loss(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return 0.5 * jnp.mean((z - batch[1]) ** 2) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)

    def baselines() -> dict[str, float]:
        grid = np.logspace(-4, 2, 61)
        found = [closed_form(training, np.full(features, penalty)) for penalty in grid]
        best = lowest((regression.mean_loss(params, validating) for params in found), "the grid of penalties")
        validated = regression.mean_loss(found[best], validating)
        scores = {"validation_loss": validated, **regression.held_out(found[best], test, stopping)}
        return {"baseline/penalty": grid[best], **{f"baseline/{name}": float(score) for name, score in scores.items()}}

    return Task(
        inner=InnerProblem(
            loss=Linear(design=lambda batch: batch[0], loss=loss), init=lambda key, hparams: jnp.zeros(features)
        ),
        outer_loss=lambda params, hparams, batch: regression.mean_loss(params, batch),
        init_hparams=lambda key: jnp.full(features, start),
        batches=full_batch(training, validating),
        evaluate=lambda params, hparams: regression.held_out(params, test, stopping),
        baselines=baselines,
        figures={
            "hyperparameters": lambda result: pictures.bars(
                found.features or [str(number) for number in range(features)],
                np.asarray(result.hparams),
                "log of the penalty found",
                start,
            )
        },
        precision=precision,
        name="ridge",
        headline=Headline("test/r2", "test R2", {"baseline/test/r2": "with one penalty, the best of a grid"}),
        natural=lambda hparams: {
            "penalty": dict(zip(found.features or map(str, range(features)), np.exp(hparams), strict=True))
        },
    )


def closed_form(batch: regression.Samples, penalties: np.ndarray) -> np.ndarray:
    """w = (X'X/n + diag(penalties))^-1 X'y/n.

    >>> closed_form((np.eye(2), np.array([1.0, 2.0])), np.array([0.5, 0.0])).tolist()
    [0.5, 2.0]
    """
    inputs, targets = batch
    gram = inputs.T @ inputs / len(targets)
    return np.linalg.solve(gram + np.diag(penalties), inputs.T @ targets / len(targets))
