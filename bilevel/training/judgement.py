"""By what the iterates of a run are compared, and whether the last one is a stationary point."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from bilevel.batches import Minibatch, same_at_every_step
from bilevel.foundation import trees
from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import HParams, Key, Params, Scalar
from bilevel.task import Task, anywhere

# Of the size of the hyperparameters: short enough that the set is seen as it is at the point, long enough that the
# difference of two projections is not rounding.
SHORT = 1e-3


def judge_of(task: Task, key: Key, measured: Iterable[str]) -> str:
    """The metric that the best iterate is chosen by: "stop/loss" where the task measures one, "outer/loss" where the
    outer batch is the same at every step, else "": the lowest loss of several batches is that of the luckiest."""
    if "stop/loss" in measured:
        return "stop/loss"
    return "outer/loss" if same_at_every_step(task.batches, key) else ""


def mean_outer_loss(task: Task, key: Key, params: Params, hparams: HParams) -> float | None:
    """The outer loss at one iterate over all minibatches of an epoch; None where a task draws what is no `Minibatch`,
    so that nothing is known of an epoch."""
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
    """|| h - P(h - t g) || / t for a short t: the norm of the gradient where all is feasible, and 0 at a stationary
    point of the outer problem on the set ``task.feasible``, wherever the gradient points."""
    size = trees.norm(grad)
    if task.feasible is anywhere or not size > 0:
        return float(size)

    def along(hparams: HParams, grad: HParams, step: Scalar) -> Scalar:
        back = task.feasible(trees.axpy(-step, grad, hparams))
        return trees.norm(trees.subtract(task.feasible(hparams), back)) / step

    step = SHORT * jnp.maximum(trees.norm(hparams), 1.0) / size
    return float(Program(along)(hparams, grad, step))
