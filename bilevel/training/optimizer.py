"""One update of an outer optimiser, with all that an optax transformation may ask for."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bilevel.engines import Carry, Engine, Point
from bilevel.foundation.typing import HParams, Scalar
from bilevel.task import Task


def outer_value(engine: Engine, task: Task, point: Point, carry: Carry) -> Callable[[HParams], Scalar]:
    """hparams -> outer loss at the inner solution there, whose gradient is the engine's: what a line search evaluates.

    Every solve begins from ``carry``; one that fails has an infinite loss. Costs a whole hypergradient each time.
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
