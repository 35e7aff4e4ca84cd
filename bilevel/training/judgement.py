"""The metric that compares the iterates of a run, and whether the last one is a stationary point."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from bilevel.batches import Minibatch, same_at_every_step
from bilevel.foundation import trees
from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import HParams, Key, Params, Scalar
from bilevel.task import Task, anywhere

# Relative to the hyperparameters: short enough that the set looks as it does at the point, long enough that the
# difference of two projections is not rounding.
SHORT = 1e-3


def judge_of(task: Task, key: Key, measured: Iterable[str]) -> str:
    """The metric that chooses the best iterate: "stop/loss" where the task measures one, "outer/loss" where the outer
    batch is the same at every step. Else "", because the lowest of losses on different batches belongs to the luckiest
    batch."""
    if "stop/loss" in measured:
        return "stop/loss"
    return "outer/loss" if same_at_every_step(task.batches, key) else ""


def mean_outer_loss(task: Task, key: Key, params: Params, hparams: HParams) -> float | None:
    """The outer loss at one iterate over all minibatches of an epoch; None where the batches are no `Minibatch`, so
    that an epoch is not known."""
    for_batches, _ = jax.random.split(key)
    batch = task.batches(for_batches, 0)[1]
    if not isinstance(batch, Minibatch):
        return None

    def loss(params: Params, hparams: HParams) -> Scalar:
        def one(step: jax.Array) -> Scalar:
            return task.outer_loss(params, hparams, task.batches(for_batches, step)[1])

        return jnp.mean(jax.lax.map(one, jnp.arange(batch.blocks))) + task.prior(hparams)

    return float(Program(loss)(params, hparams))


def projected_gradient_norm(task: Task, hparams: HParams, grad: HParams) -> float:
    """|| h - P(h - t g) || / t for a short t. It is the norm of the gradient inside of the set ``task.feasible``, and 0
    at a stationary point of the outer problem on that set, even if the gradient is not 0."""
    size = trees.norm(grad)
    if task.feasible is anywhere or not size > 0:
        return float(size)

    def along(hparams: HParams, grad: HParams, step: Scalar) -> Scalar:
        back = task.feasible(trees.axpy(-step, grad, hparams))
        return trees.norm(trees.subtract(task.feasible(hparams), back)) / step

    step = SHORT * jnp.maximum(trees.norm(hparams), 1.0) / size
    return float(Program(along)(hparams, grad, step))
