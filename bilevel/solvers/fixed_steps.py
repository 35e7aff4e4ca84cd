"""A fixed number of steps of any solver, without a stopping rule: always the same program to differentiate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, Params
from bilevel.solvers.base import ONE, Solver, State
from bilevel.solvers.differentiable_while import differentiable_while, segment_length
from bilevel.solvers.instance import Instance
from bilevel.solvers.loop import Outcome


class Taken(NamedTuple):
    """A solver's state after some steps, with the cost of the steps and of their derivatives (as in `Progress`)."""

    state: State
    steps: jax.Array
    derivative: Counts
    again: Counts
    last: Counts


def take_steps(
    solver: Solver, instance: Instance, start: Params, cold_start: Params, steps: int, reverse: bool
) -> Outcome:
    """The outcome after exactly ``steps`` steps, with the status ``truncated``; fewer only where a step failed.

    The tolerance is ignored, and a solver that reports the floor of the precision goes on. So the derivative is the
    derivative of exactly these steps, also where the start is the solution. ``reverse``: for reverse mode, else for
    forward mode.
    """
    solver.refuse(instance)
    instance = replace(instance, exact=True)
    reference = jax.lax.stop_gradient(instance.residual_norm(cold_start))

    def advance(instance: Instance, taken: Taken) -> Taken:
        state = solver.step(instance, taken.state).settled()
        last = jax.tree.map(jnp.subtract, state.counts, taken.state.counts)
        repeated = jnp.where(taken.steps % segment_length(steps) != 0, 1, 0)  # on the way to a later step's start
        again = jax.tree.map(lambda all, before, now: all + repeated * before + now, taken.again, taken.last, last)
        return Taken(state, taken.steps + 1, taken.derivative.add(state.derivative), again, last)

    def going(taken: Taken) -> jax.Array:
        usable = jnp.isfinite(taken.state.residual) & (taken.state.code <= Code.stalled)
        return (taken.steps < steps) & usable

    none, state = Counts().as_arrays(), solver.init(instance, start).settled()
    beside = jax.tree.map(jnp.subtract, state.derivative, ONE.as_arrays())  # the cost of the step sizes at the start
    first = beside.plus(jacobian_products=1) if solver.keeps_gradient else beside
    begin = Taken(state, jnp.int32(0), first, none, none)
    if reverse:
        step = lambda instance, taken: (after := advance(instance, taken), going(after))
        walk = None if instance.plain is None else partial(step, instance.plain)
        taken = differentiable_while(partial(step, instance), begin, going(begin), steps, walk)
    else:
        taken = jax.lax.while_loop(going, partial(advance, instance), begin)
    counts = taken.state.counts.add(taken.again) if reverse else taken.state.counts
    return _outcome(instance, taken._replace(state=taken.state._replace(counts=counts)), reference)


def _outcome(instance: Instance, taken: Taken, reference: jax.Array) -> Outcome:
    state = taken.state
    residual = jax.lax.stop_gradient(instance.residual_norm(state.params))
    failed = jnp.where(jnp.isfinite(residual), Code.truncated, Code.nonfinite)
    code = jnp.where(state.code > Code.stalled, state.code, failed)
    relative = jnp.where(reference > 0, residual / jnp.where(reference > 0, reference, 1.0), residual)
    counts = state.counts.plus(gradients=2, proxes=2 * instance.mapping.prox_calls)
    curvature = jnp.full_like(residual, jnp.nan) if state.curvature is None else state.curvature
    status = Status.of(code)
    return Outcome(state.params, relative, taken.steps, status, counts, state, taken.derivative, curvature, relative)
