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
from bilevel.solvers.curvature import Curvature, bends_down, can_look, least_curvature, push, refuted
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
    curvature: jax.Array  # the least one as a share of the largest, where negative, else 0; NaN: a first-order point


class Looked(NamedTuple):
    """Where the steps of a solver that does not look at curvature ended, and what was found there."""

    progress: Progress
    curvature: jax.Array
    goes_on: jax.Array


def iterate(solver: Solver, instance: Instance, start: Params, cold_start: Params) -> Outcome:
    """Steps from ``start`` until ||F(w)|| <= tol * ||F(cold_start)||, max_steps, or a failure; jit- and vmap-safe."""
    solver.refuse(instance)
    reference = instance.residual_norm(cold_start)
    progress = enter(solver, solver.init(instance, start))
    nothing = jnp.full_like(reference, jnp.nan)

    def stretch(looked: Looked) -> Looked:
        progress = advance_from(solver, instance, looked.progress, reference, start)
        return look(solver, instance, progress, progress.state.residual <= _target(solver, reference, start))

    if progress.state.curvature is None and can_look(instance):
        looked = jax.lax.while_loop(lambda looked: looked.goes_on, stretch, Looked(progress, nothing, jnp.bool_(True)))
        return conclude(solver, instance, looked.progress, reference, start, looked.curvature)
    return conclude(solver, instance, advance_from(solver, instance, progress, reference, start), reference, start)


def look(solver: Solver, instance: Instance, progress: Progress, solved: jax.Array) -> Looked:
    """The curvature where the steps ended, if the gradient is small there. Where it is negative the next stretch begins
    at a point beside it whose objective is smaller."""
    state = progress.state
    curvature, direction = jax.lax.cond(
        solved,
        lambda: least_curvature(instance, state.params),
        lambda: Curvature(jnp.full_like(state.residual, jnp.nan), state.params),
    )
    wanted = bends_down(curvature, state.params) & solved & (progress.steps < solver.max_steps)
    wanted &= ~jnp.isnan(curvature)
    pushed = push(instance, state.params, direction, wanted)
    onward = jax.lax.cond(pushed.found, lambda: _begun(solver, instance, progress, pushed.params), lambda: progress)
    return Looked(onward, curvature, pushed.found)


def _begun(solver: Solver, instance: Instance, progress: Progress, params: Params) -> Progress:
    """The progress with the solver begun anew at ``params``."""
    state = _settled(solver.init(instance, params))
    state = state._replace(counts=progress.state.counts.add(state.counts))
    best = jax.lax.stop_gradient(state.residual)
    return progress._replace(state=state, steps=progress.steps + 1, best=best, since_best=jnp.int32(0))


def advance(solver: Solver, instance: Instance, state: State, reference: jax.Array) -> Progress:
    """Steps from ``state`` until ||F(w)|| <= tol * reference, max_steps, or a failure."""
    return advance_from(solver, instance, enter(solver, state), reference, state.params)


def advance_from(
    solver: Solver, instance: Instance, progress: Progress, reference: jax.Array, start: Params
) -> Progress:
    """As `advance`, going on."""
    return jax.lax.while_loop(
        lambda progress: goes_on(solver, progress, reference, start),
        lambda progress: take_step(solver, instance, progress),
        progress,
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
        curvature=jax.lax.stop_gradient(state.curvature),
    )


def take_step(solver: Solver, instance: Instance, progress: Progress) -> Progress:
    state = _settled(solver.step(instance, progress.state))
    fell = state.residual < 0.9 * progress.best
    if state.curvature is not None:
        fell |= state.curvature < 0  # on the way down from a saddle the gradient grows
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
        & ((residual > _target(solver, reference, start)) | bends_down(progress.state.curvature, start))
        & jnp.isfinite(residual)
        & (residual <= GROWTH * jnp.maximum(reference, progress.best))
        & (progress.state.code == Code.converged)
        & ~_stalled(solver, progress, reference, start)
    )


def conclude(
    solver: Solver,
    instance: Instance,
    progress: Progress,
    reference: jax.Array,
    start: Params,
    curvature: jax.Array | None = None,
) -> Outcome:
    """The outcome, its status taken from the residual recomputed at the final iterate, and from the ``curvature`` there
    where the solver did not look at it itself."""
    state = progress.state
    curvature = state.curvature if curvature is None else curvature
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
    code = jnp.where((code <= Code.stalled) & refuted(curvature, start), Code.indefinite, code)
    relative = jnp.where(reference > 0, residual / jnp.where(reference > 0, reference, 1.0), residual)
    counts = state.counts.plus(gradients=2, proxes=2 * instance.mapping.prox_calls)
    curvature = jnp.full_like(residual, jnp.nan) if curvature is None else curvature
    return Outcome(
        state.params, relative, progress.steps, Status.of(code), counts, state, progress.derivative, curvature
    )
