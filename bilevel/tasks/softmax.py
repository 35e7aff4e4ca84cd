"""Softmax regression, the learner inside four of the tasks: logits z = [x, 1] @ params."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.data import DataSet, Rows, checked, in_memory, without_gaps
from bilevel.foundation.progress import followed
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses.linear import Linear
from bilevel.losses.pointwise import cross_entropy
from bilevel.problem import InnerProblem
from bilevel.tasks.grids import lowest

Samples = tuple[Any, np.ndarray]  # inputs (n, features + 1), the last column ones, and labels (n,)


def samples(data: DataSet) -> Samples:
    """Inputs with a column of ones for the intercept, and labels. Inputs that are not in memory stay where they are."""
    without_gaps(checked(data))
    if isinstance(data.inputs, Rows):
        return data.inputs.with_ones(), data.targets
    return np.hstack([data.inputs, np.ones((len(data.inputs), 1))]), data.targets


def mean_loss(params: Params, batch: Batch) -> Scalar:
    """The mean cross-entropy of linear logits."""
    inputs, labels = batch
    return jnp.mean(cross_entropy(inputs @ params, labels))


def accuracy(params: Params, batch: Batch) -> Scalar:
    """The share of samples whose largest logit belongs to their label."""
    inputs, labels = batch
    return jnp.mean(jnp.argmax(inputs @ params, axis=1) == labels, dtype=params.dtype)


def scores(logits: jax.Array, labels: Any) -> dict[str, Scalar]:
    """Loss and accuracy of any classifier's logits on the test set.

    >>> {name: round(float(score), 3) for name, score in scores(jnp.array([[0.0, 9.0], [9.0, 0.0]]), [1, 1]).items()}
    {'test/loss': 4.5, 'test/accuracy': 0.5}
    """
    labels = jnp.asarray(labels)
    right = jnp.argmax(logits, axis=1) == labels
    return {
        "test/loss": jnp.mean(cross_entropy(logits, labels)),
        "test/accuracy": jnp.mean(right, dtype=logits.dtype),
    }


def held_out(params: Params, test: Samples, stop: Samples) -> dict[str, Scalar]:
    """Loss and accuracy on the test set and, where there is one, the loss on the second hold-out."""
    metrics = {"test/loss": mean_loss(params, test), "test/accuracy": accuracy(params, test)}
    return {**metrics, "stop/loss": mean_loss(params, stop)} if len(stop[1]) else metrics


def _single_penalty(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
    _, labels, weights = batch
    return jnp.vdot(weights, cross_entropy(z, labels)) / jnp.sum(weights) + 0.5 * hparams * jnp.sum(params**2)


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
    weights: np.ndarray | float = 1.0,
) -> Fit:
    """Softmax regression with penalty/2 ||params||^2; the penalty has the lowest cost on ``chosen_on``.

    ``weights`` multiply the losses of the training samples in their mean. One compiled program fits all subsets of a
    set, because weights of zero state a subset.
    """
    train, chosen_on = in_memory((train, chosen_on))
    weighted = (*train, np.broadcast_to(np.asarray(weights, float), train[1].shape))
    fit = lambda penalty: _fit(jnp.asarray(penalty), weighted, chosen_on, classes, cost)
    fits = [fit(penalty) for penalty in followed(penalties, "penalties")]
    best = lowest((loss for _, loss in fits), "the grid of penalties")
    return Fit(fits[best][0], float(penalties[best]))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _fit(
    penalty: jax.Array, train: Any, chosen_on: Any, classes: int, cost: Callable[[Params, Batch], Scalar]
) -> tuple[Params, Scalar]:
    inner = InnerProblem(
        loss=Linear(design=lambda batch: batch[0], loss=_single_penalty),
        init=lambda key, hparams: jnp.zeros((train[0].shape[1], classes)),
    )
    params = inner.solve(penalty, train).params
    return params, cost(params, chosen_on)
