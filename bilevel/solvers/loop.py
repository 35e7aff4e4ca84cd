"""The one loop: it runs the steps of any solver, by `lax.while_loop` or by one that reverse mode goes back over."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, Params
from bilevel.solvers.base import Solver, State
from bilevel.solvers.differentiable_while import differentiable_while, segment_length
from bilevel.solvers.instance import Instance

GROWTH = 1e8  # a residual this many times the start's has diverged


class Progress(NamedTuple):
    """A solver's state with what the stopping rule remembers."""

    state: State
    steps: jax.Array
    best: jax.Array  # the smallest residual so far
    since_best: jax.Array  # steps since it fell by at least a tenth
    derivative: Counts  # what the derivatives of start and steps take in one direction
    again: Counts  # what a reverse pass takes once more
    last: Counts  # what the last step took


class Outcome(NamedTuple):
    """What a solve ends with. ``residual`` is relative to the cold start's."""

    params: Params
    residual: jax.Array
    steps: jax.Array
    status: Status
    counts: Counts
    state: State
    derivative: Counts  # what the derivatives of start and steps take in one direction


def iterate(solver: Solver, instance: Instance, start: Params, cold_start: Params) -> Outcome:
    """Steps from ``start`` until ||F(w)|| <= tol * ||F(cold_start)||, max_steps, or a failure; jit- and vmap-safe."""
    solver.refuse(instance)
    reference = instance.residual_norm(cold_start)
    progress = advance(solver, instance, solver.init(instance, start), reference)
    return conclude(solver, instance, progress, reference, start)


def advance(solver: Solver, instance: Instance, state: State, reference: jax.Array) -> Progress:
    """Steps from ``state`` until ||F(w)|| <= tol * reference, max_steps, or a failure."""
    return jax.lax.while_loop(
        lambda progress: goes_on(solver, progress, reference, state.params),
        lambda progress: take_step(solver, instance, progress),
        enter(solver, state),
    )


def unroll(solver: Solver, instance: Instance, start: Params, cold_start: Params) -> Outcome:
    """As `iterate`, differentiable in reverse mode: about sqrt(max_steps) states are kept, the others recomputed, and
    of a step nothing but the state it starts from."""
    solver.refuse(instance)
    reference = jax.lax.stop_gradient(instance.residual_norm(cold_start))

    def one_step(instance: Instance, progress: Progress) -> tuple[Progress, jax.Array]:
        after = take_step(solver, instance, progress)
        return after, goes_on(solver, after, reference, start)

    begin = enter(solver, solver.init(instance, start))
    going = goes_on(solver, begin, reference, start)
    step = partial(one_step, instance)
    walk = None if instance.stated is None else partial(one_step, replace(instance, loss=instance.stated, stated=None))
    progress = differentiable_while(step, begin, going, solver.max_steps, walk)
    counts = progress.state.counts.add(progress.again)
    progress = progress._replace(state=progress.state._replace(counts=counts))
    return conclude(solver, instance, progress, reference, start)


def enter(solver: Solver, state: State) -> Progress:
    state = _settled(state)
    none = Counts().as_arrays()
    start_alone = none.plus(jacobian_products=1) if solver.keeps_gradient else none
    return Progress(state, jnp.int32(0), state.residual, jnp.int32(0), start_alone, none, none)


def _settled(state: State) -> State:
    """The state with its bookkeeping in fixed types, as a loop needs it; nothing is differentiated of the residual."""
    return state._replace(
        residual=jax.lax.stop_gradient(state.residual),
        counts=state.counts.as_arrays(),
        code=jnp.asarray(state.code, jnp.int32),
        derivative=state.derivative.as_arrays(),
    )


def take_step(solver: Solver, instance: Instance, progress: Progress) -> Progress:
    state = _settled(solver.step(instance, progress.state))
    fell = state.residual < 0.9 * progress.best
    best = jax.lax.stop_gradient(jnp.where(fell, state.residual, progress.best))
    last, again = _reversed(solver, progress, state)
    derivative = progress.derivative.add(state.derivative)
    since_best = jnp.where(fell, 0, progress.since_best + 1)
    return Progress(state, progress.steps + 1, best, since_best, derivative, again, last)


def _reversed(solver: Solver, progress: Progress, state: State) -> tuple[Counts, Counts]:
    """What this step took, and what reverse mode takes again of all steps so far: each for its derivative, and those
    that another follows in the same segment once more, for the state they lead to."""
    last = jax.tree.map(jnp.subtract, state.counts, progress.state.counts)
    recomputed = progress.steps % segment_length(solver.max_steps) != 0
    again = jax.tree.map(lambda all, before: all + jnp.where(recomputed, before, 0), progress.again, progress.last)
    return last, again.add(last)


def _target(solver: Solver, reference: jax.Array, start: Params) -> jax.Array:
    return jnp.maximum(solver.tol, 4 * trees.epsilon(start)) * reference


def _stalled(solver: Solver, progress: Progress, reference: jax.Array, start: Params) -> jax.Array:
    floor = math.sqrt(trees.epsilon(start)) * reference
    return (progress.since_best >= solver.patience) & (progress.best <= floor)


def goes_on(solver: Solver, progress: Progress, reference: jax.Array, start: Params) -> jax.Array:
    residual = progress.state.residual
    return (
        (progress.steps < solver.max_steps)
        & (residual > _target(solver, reference, start))
        & jnp.isfinite(residual)
        & (residual <= GROWTH * jnp.maximum(reference, progress.best))
        & (progress.state.code == Code.converged)
        & ~_stalled(solver, progress, reference, start)
    )


def conclude(solver: Solver, instance: Instance, progress: Progress, reference: jax.Array, start: Params) -> Outcome:
    """The outcome, its status taken from the residual recomputed at the final iterate."""
    state = progress.state
    residual = jax.lax.stop_gradient(instance.residual_norm(state.params))
    code = jnp.select(
        [
            ~jnp.isfinite(residual),
            residual <= _target(solver, reference, start),
            (state.code != Code.converged) & (state.code != Code.stalled),
            (state.code == Code.stalled) & (residual <= math.sqrt(trees.epsilon(start)) * reference),
            residual > GROWTH * jnp.maximum(reference, progress.best),
            _stalled(solver, progress, reference, start),
        ],
        [Code.nonfinite, Code.converged, state.code, Code.stalled, Code.diverged, Code.stalled],
        Code.max_steps,
    )
    relative = jnp.where(reference > 0, residual / jnp.where(reference > 0, reference, 1.0), residual)
    counts = state.counts.plus(gradients=2, proxes=2 * instance.mapping.prox_calls)
    return Outcome(state.params, relative, progress.steps, Status.of(code), counts, state, progress.derivative)
