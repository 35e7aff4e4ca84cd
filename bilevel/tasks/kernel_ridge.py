"""Kernel ridge regression with one length scale a feature."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.batches import full_batch
from bilevel.foundation.progress import followed
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.problem import InnerProblem
from bilevel.task import Headline, Task
from bilevel.tasks import pictures
from bilevel.tasks.grids import lowest

SCALES = tuple(2.0**power for power in range(-1, 7))  # the grids of the baseline: one length scale, one penalty
RIDGES = tuple(10.0**power for power in range(-5, 1))


def kernel_ridge(
    *,
    data: str = "diabetes",
    root: str = "",
    train: int = 200,
    validation: int = 120,
    stop: int = 0,
    scale: float = 4.0,
    ridge: float = 0.1,
    seed: int = 0,
    precision: str = "float64",
) -> Task:
    """The length scale of each feature, and the penalty, of a regression with the Gaussian kernel.

        inner:  1/2 a'(K + n exp(r) I) a - a'y,   K_ij = exp(-1/2 sum_f (x_if - x_jf)^2 exp(-2 s_f))
        outer:  1/2 mean (K_val a - y)^2                                         on the validation set

    The logarithms s_f and r start at ``scale`` and ``ridge``. Inputs and targets are standardised with the statistics
    of the training set. ``stop`` samples are a second hold-out; the remaining samples are the test set. Metrics:
    test/loss, test/r2, stop/loss. Baseline: one length scale and one penalty from a grid of 48, the best on the
    validation set.

    Source: Chapelle et al., Choosing multiple parameters for support vector machines, 2002.
    """
    parts = data_sets.split(data_sets.regression(data, root), train, validation, stop, seed)
    fitted, chosen, stopping, test = (
        (part.inputs, part.targets) for part in data_sets.standardise(parts, targets=True)
    )
    features = fitted[0].shape[1]
    names = parts.train.features or tuple(f"feature {number}" for number in range(features))

    def loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        inputs, targets = batch
        ridge = len(targets) * jnp.exp(hparams["log_ridge"])
        image = kernel(inputs, inputs, hparams) @ params + ridge * params
        return 0.5 * jnp.vdot(params, image) - jnp.vdot(params, targets)

    def mean_loss(params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return 0.5 * jnp.mean((kernel(batch[0], fitted[0], hparams) @ params - batch[1]) ** 2)

    def evaluate(params: Params, hparams: HParams) -> dict[str, Any]:
        error = mean_loss(params, hparams, test)
        metrics = {"test/loss": error, "test/r2": 1 - 2 * error / np.var(test[1])}
        return {**metrics, "stop/loss": mean_loss(params, hparams, stopping)} if stop else metrics

    def baselines() -> dict[str, Any]:
        points = _grid(features)
        fits = [_exact(fitted, hparams) for hparams in followed(points, "points of the grid")]
        losses = [float(mean_loss(params, hparams, chosen)) for params, hparams in zip(fits, points, strict=True)]
        best = lowest(losses, "the grid of length scales and penalties")
        scores = {"validation_loss": losses[best], **evaluate(fits[best], points[best])}
        return {f"baseline/{name}": float(score) for name, score in scores.items()}

    def relevance(result: Any) -> Any:
        return pictures.bars(names, np.exp(-np.asarray(result.hparams["log_scales"])), "relevance: 1 / length scale")

    return Task(
        inner=InnerProblem(loss=loss, init=lambda key, hparams: jnp.zeros(train)),
        outer_loss=mean_loss,
        init_hparams=lambda key: {"log_scales": jnp.full(features, jnp.log(scale)), "log_ridge": jnp.log(ridge)},
        batches=full_batch(fitted, chosen),
        evaluate=evaluate,
        baselines=baselines,
        natural=lambda hparams: {
            "length scale": dict(zip(names, np.exp(np.asarray(hparams["log_scales"])).tolist(), strict=True)),
            "penalty": np.exp(np.asarray(hparams["log_ridge"])),
        },
        figures={"relevance": relevance},
        headline=Headline("test/r2", "test R2", {"baseline/test/r2": "with one length scale, by a grid of 48"}),
        precision=precision,
        name="kernel_ridge",
    )


def kernel(left: jax.Array, right: jax.Array, hparams: HParams) -> jax.Array:
    """The Gaussian kernel of all pairs of rows."""
    scaled = [jnp.asarray(rows) * jnp.exp(-hparams["log_scales"]) for rows in (left, right)]
    squares = [jnp.sum(rows**2, axis=1) for rows in scaled]
    return jnp.exp(scaled[0] @ scaled[1].T - 0.5 * squares[0][:, None] - 0.5 * squares[1][None, :])


def _grid(features: int) -> list[HParams]:
    pairs = [(np.log(scale), np.log(ridge)) for scale in SCALES for ridge in RIDGES]
    return [{"log_scales": jnp.full(features, scale), "log_ridge": jnp.asarray(ridge)} for scale, ridge in pairs]


def _exact(batch: Batch, hparams: HParams) -> Params:
    inputs, targets = batch
    ridge = len(targets) * jnp.exp(hparams["log_ridge"])
    return jnp.linalg.solve(kernel(inputs, inputs, hparams) + ridge * jnp.eye(len(targets)), targets)
