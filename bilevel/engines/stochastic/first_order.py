"""The common parts of the methods that need first derivatives only."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Report
from bilevel.engines.stochastic.directions import Directions
from bilevel.engines.stochastic.neumann import Draw
from bilevel.engines.stochastic.single_loop import stochastic_report
from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, Counts, HParams, Loss, Params, PyTree, Scalar
from bilevel.task import Task


class Slopes(NamedTuple):
    """The gradient of a loss in both unknowns."""

    params: PyTree
    hparams: HParams


def slopes(loss: Loss, params: Params, hparams: HParams, batch: Batch) -> Slopes:
    """One gradient."""
    return Slopes(*jax.grad(loss, argnums=(0, 1))(params, hparams, batch))


def descent(task: Task, hparams: HParams, draw: Draw, start: Params, steps: int, size: Scalar) -> Params:
    """Gradient steps on the inner loss, each on a minibatch of its own."""

    def descend(number: jax.Array, params: Params) -> Params:
        batch, _ = draw(number)
        return trees.axpy(-size, jax.grad(task.inner.loss)(params, hparams, batch), params)

    return jax.lax.fori_loop(0, steps, descend, start)


def first_order_report(
    task: Task, rest: PyTree, grad: HParams, carry: Carry, counts: Counts, inner_steps: int = 1
) -> Report:
    """The report of a method without an adjoint; ``rest`` is its direction on w."""
    directions = Directions(rest, jax.tree.map(jnp.zeros_like, rest), grad)
    report = stochastic_report(task, directions, rest, carry.memory.reference, carry, counts)
    return replace(report, inner_steps=jnp.int32(inner_steps), adjoint_steps=jnp.int32(0))
