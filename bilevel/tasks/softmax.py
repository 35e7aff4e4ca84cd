"""Softmax regression, the learner inside four of the tasks: logits z = [x, 1] @ params."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.data import DataSet
from bilevel.linear import Linear
from bilevel.problem import InnerProblem
from bilevel.typing import Batch, HParams, Params, Scalar

Samples = tuple[np.ndarray, np.ndarray]  # inputs (n, features + 1), the last column ones, and labels (n,)


def samples(data: DataSet) -> Samples:
    """Inputs with a column of ones for the intercept, and labels."""
    return np.hstack([data.inputs, np.ones((len(data.inputs), 1))]), data.targets


def cross_entropy(logits: jax.Array, labels: jax.Array | np.ndarray) -> jax.Array:
    """-log softmax(logits)[label], for each sample."""
    chosen = jnp.take_along_axis(logits, jnp.asarray(labels)[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen


def mean_loss(params: Params, batch: Batch) -> Scalar:
    """The mean cross-entropy of linear logits."""
    inputs, labels = batch
    return jnp.mean(cross_entropy(inputs @ params, labels))


def accuracy(params: Params, batch: Batch) -> Scalar:
    """The share of samples whose largest logit is that of their label."""
    inputs, labels = batch
    return jnp.mean(jnp.argmax(inputs @ params, axis=1) == labels, dtype=params.dtype)


def held_out(params: Params, test: Samples, stop: Samples) -> dict[str, Scalar]:
    """Loss and accuracy on the test set and, where there is one, the loss on the second hold-out."""
    metrics = {"test/loss": mean_loss(params, test), "test/accuracy": accuracy(params, test)}
    return {**metrics, "stop/loss": mean_loss(params, stop)} if len(stop[1]) else metrics


def _single_penalty(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
    return jnp.mean(cross_entropy(z, batch[1])) + 0.5 * hparams * jnp.sum(params**2)


class Fit(NamedTuple):
    """A softmax regression with one penalty, chosen from a grid."""

    params: Params
    penalty: float


def error_rate(params: Params, batch: Batch) -> Scalar:
    """The share of samples that are misclassified."""
    return 1.0 - accuracy(params, batch)


def best_of_grid(
    train: Samples,
    chosen_on: Samples,
    classes: int,
    penalties: Sequence[float],
    cost: Callable[[Params, Batch], Scalar] = mean_loss,
) -> Fit:
    """Softmax regression with penalty/2 ||params||^2, the penalty being the one of the lowest cost on ``chosen_on``."""
    shape = (train[0].shape[1], classes)
    inner = InnerProblem(
        loss=Linear(design=lambda batch: batch[0], loss=_single_penalty), init=lambda key, hparams: jnp.zeros(shape)
    )

    @jax.jit
    def fit(train: Any, chosen_on: Any, grid: jax.Array) -> tuple[Params, jax.Array]:
        found = jax.lax.map(lambda penalty: inner.solve(penalty, train).params, grid)
        best = jnp.argmin(jax.vmap(lambda params: cost(params, chosen_on))(found))
        return found[best], grid[best]

    params, penalty = fit(train, chosen_on, jnp.asarray(penalties))
    return Fit(params, float(penalty))
