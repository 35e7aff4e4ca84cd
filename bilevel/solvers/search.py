"""The one search for a step: frozen, with the derivative through the step that it accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code
from bilevel.solvers.instance import Instance

Point = TypeVar("Point")


class Found(NamedTuple, Generic[Point]):
    """Where a search ended."""

    point: Point  # what the step leads to
    step: jax.Array
    trials: jax.Array  # points evaluated, the one for the derivative included
    accepted: jax.Array


def followed(accepted: jax.Array, first: jax.Array, instance: Instance) -> jax.Array:
    """The step size that a frozen search accepted, as a fixed multiple of the first trial, so that it has the
    derivative of the first trial where that is differentiated."""
    if not instance.exact:
        return accepted
    frozen = jax.lax.stop_gradient
    return accepted + frozen(accepted / first) * (first - frozen(first))


def as_it_is(found: Found) -> jax.Array:
    """The accepted step."""
    return found.step


def search(
    instance: Instance,
    at: Callable[[jax.Array], Point],
    accepts: Callable[[jax.Array, Point], jax.Array],
    first: jax.Array,
    most: int | jax.Array,
    settled: Callable[[Found[Point]], jax.Array] = as_it_is,
    shrink: float = 0.5,
) -> Found[Point]:
    """The first t of ``first``, ``first`` ``shrink``, ``first`` ``shrink``^2, ... with ``accepts(t, at(t))``, or the
    last of ``most``.

    Differentiation passes through the accepted step, not through the search, because reverse mode cannot go back over a
    while loop. So the accepted point is evaluated once more, at the step that ``settled`` makes of the one found. Where
    the instance does not search, ``first`` is taken without a check.
    """
    frozen = jax.lax.stop_gradient
    if not instance.searches:
        return Found(at(first), first, jnp.int32(1), jnp.bool_(True))

    def trial(step: jax.Array, number: jax.Array) -> Found[Point]:
        point = frozen(at(step))
        return Found(point, step, number, frozen(accepts(step, point)))

    found = jax.lax.while_loop(
        lambda found: ~found.accepted & (found.trials < most),
        lambda found: trial(shrink * found.step, found.trials + 1),
        trial(frozen(first), jnp.int32(1)),
    )
    found = found._replace(step=settled(found))
    if not instance.differentiable:
        return found
    step = followed(found.step, first, instance)
    return found._replace(point=at(step), step=step, trials=found.trials + 1)


def stopped(accepted: jax.Array, sound: jax.Array | bool) -> jax.Array:
    """The code after a search.

    A step that leads nowhere is at the floor of the precision only if its derivative is ``sound``, that is finite.
    """
    return jnp.where(accepted, Code.converged, jnp.where(sound, Code.stalled, Code.nonfinite))
