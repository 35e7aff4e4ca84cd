"""One update of an outer optimiser, with every argument that an optax transformation may take."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bilevel.engines import Carry, Engine, Point
from bilevel.foundation.typing import HParams, Scalar
from bilevel.task import Task


def outer_value(engine: Engine, task: Task, point: Point, carry: Carry) -> Callable[[HParams], Scalar]:
    """hparams -> the outer loss at the inner solution, with the engine's gradient, for a line search.

    Every solve begins from ``carry``; a failed solve has an infinite loss. Each call costs a whole hypergradient.
    """

    def both(hparams: HParams) -> tuple[Scalar, HParams]:
        value, grad, report = engine.hypergradient(task, point._replace(hparams=hparams), carry)
        return jnp.where(report.status.ok, value, jnp.inf), grad

    @jax.custom_vjp
    def value(hparams: HParams) -> Scalar:
        return both(hparams)[0]

    def scaled(grad: HParams, cotangent: Scalar) -> tuple[HParams]:
        return (jax.tree.map(lambda leaf: (cotangent * leaf).astype(leaf.dtype), grad),)

    value.defvjp(both, scaled)
    return value


def update(
    optimizer: optax.GradientTransformation,
    found: tuple[Scalar, HParams],
    state: optax.OptState,
    hparams: HParams,
    value_fn: Callable[[HParams], Scalar],
) -> tuple[HParams, optax.OptState]:
    """The updates and the optimiser's state after them, from the loss and gradient ``found`` at ``hparams``. A
    transformation that asks for ``value``, ``grad`` or ``value_fn`` gets them; for the others they cost nothing."""
    value, grad = found
    step = optax.with_extra_args_support(optimizer).update
    return step(grad, state, hparams, value=value, grad=grad, value_fn=value_fn)
