"""The one loop: it runs the steps of any solver, by `lax.while_loop` or by one that reverse mode goes back over."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.constraints import is_empty
from bilevel.foundation import trees
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, Params
from bilevel.solvers.base import Solver, State
from bilevel.solvers.curvature import bends_down, can_look, refuted
from bilevel.solvers.differentiable_while import differentiable_while, segment_length
from bilevel.solvers.instance import Instance
from bilevel.solvers.second_look import Asked, second_look, sentenced
from bilevel.solvers.verdict import (
    FALLING,
    GROWTH,
    LENIENT,
    Ending,
    Questions,
    Relative,
    judge,
    limits,
    look,
    relative,
    vanishes,
    without_end,
    zero_level,
)


class Progress(NamedTuple):
    """A solver's state with the memory of the stopping rule."""

    state: State
    steps: jax.Array
    best: jax.Array  # the smallest residual so far
    lowest: jax.Array | None  # the smallest objective so far, where the solver keeps it
    falls: jax.Array  # whether the last step lowered it by more than FALLING of its size
    since_best: jax.Array  # steps since the residual or the objective last fell
    target: jax.Array  # the residual at which the steps stop, to be judged
    level: jax.Array  # below this residual a lack of progress stops the steps too
    ceiling: jax.Array  # beyond this residual the steps have diverged
    onward: jax.Array  # whether the next step is taken at any residual, because the last verdict was to go on
    derivative: Counts  # the cost of the derivatives of start and steps in one direction
    again: Counts  # the cost of the steps that a reverse pass takes once more
    last: Counts  # the cost of the last step


class Outcome(NamedTuple):
    """The result of a solve. ``residual`` is relative to the residual of the cold start, or to the terms of the
    residual where the cold start solves the problem up to rounding."""

    params: Params
    residual: jax.Array
    steps: jax.Array
    status: Status
    counts: Counts
    state: State
    derivative: Counts  # the cost of the derivatives of start and steps in one direction
    curvature: jax.Array  # the least relative to the largest, where negative, else 0; NaN: a first-order point
    distance: jax.Array  # of the params from the solution, beside their size, as far as the residual tells


class Judged(NamedTuple):
    """The verdict on the point where the steps stopped."""

    progress: Progress  # ready for the next step
    goes_on: jax.Array
    code: jax.Array
    residual: Relative
    curvature: jax.Array
    apart: jax.Array  # whether the rest of the residual is in coordinates that the steps have hardly changed
    begins: jax.Array  # whether the steps begin anew, at the params of ``progress``


def iterate(solver: Solver, instance: Instance, start: Params, cold_start: Params) -> Outcome:
    """Steps from ``start`` until the residual is small (see verdict.py), max_steps, or a failure; jit- and vmap-safe.

    The steps stop at ||F(w)|| <= tol * ||F(cold_start)|| or without progress. Only there the scales of the point are
    computed; where they show that it is no solution yet, the steps go on. A point from which the loss falls on both
    sides is no solution either.
    """
    solver.refuse(instance)
    reference = instance.residual_norm(cold_start)

    # Two loops, because a verdict costs evaluations: the inner loop only steps, the outer one judges.
    def stretch(judged: Judged) -> Judged:
        progress = jax.lax.cond(
            judged.begins, lambda: begun(solver, instance, judged.progress), lambda: judged.progress
        )
        return sentence(solver, instance, walk(solver, instance, progress), reference, cold_start)

    one, yes = jnp.ones_like(reference), jnp.bool_(True)
    # The first state is made in the loop too, because then the program has one copy of `init`.
    first = enter(solver, blank(solver, instance, start), reference, jnp.inf)
    begin = Judged(first, yes, jnp.int32(Code.max_steps), Relative(one, one), jnp.full_like(one, jnp.nan), ~yes, yes)
    return outcome(instance, jax.lax.while_loop(lambda judged: judged.goes_on, stretch, begin))


def blank(solver: Solver, instance: Instance, params: Params) -> State:
    """A state that holds the params only; `begun` fills the rest."""
    shapes = jax.eval_shape(lambda params: solver.init(instance, params).settled(), params)
    return jax.tree.map(lambda leaf: jax.lax.full(leaf.shape, 0, leaf.dtype), shapes)._replace(params=params)


def begun(solver: Solver, instance: Instance, progress: Progress) -> Progress:
    """The progress with the solver's first state at its params."""
    state = solver.init(instance, progress.state.params).settled()
    state = state._replace(counts=progress.state.counts.add(state.counts))
    ceiling = jnp.maximum(progress.ceiling, GROWTH * state.residual)
    return progress._replace(
        state=state,
        best=state.residual,
        lowest=objective(solver, state),
        falls=jnp.bool_(False),
        since_best=jnp.int32(0),
        ceiling=ceiling,
        onward=jnp.bool_(False),
    )


def objective(solver: Solver, state: State) -> jax.Array | None:
    """The objective at the state's params, without a derivative, where the solver keeps it."""
    return jax.lax.stop_gradient(state.memory.value) if solver.keeps_value else None


def advance(solver: Solver, instance: Instance, state: State, reference: jax.Array) -> Progress:
    """Steps from ``state`` until ||F(w)|| <= tol * reference, max_steps, or a failure, without a verdict."""
    return walk(solver, instance, enter(solver, state, reference, trees.epsilon(state.params) ** 0.5 * reference))


def walk(solver: Solver, instance: Instance, progress: Progress) -> Progress:
    """The steps until one is due to be judged."""
    return jax.lax.while_loop(partial(goes_on, solver), partial(take_step, solver, instance), progress)


def unroll(solver: Solver, instance: Instance, start: Params, cold_start: Params) -> Outcome:
    """As `iterate`, differentiable in reverse mode. About sqrt(max_steps) states are kept and the others recomputed; of
    a step only its first state is kept. The first verdict is final."""
    solver.refuse(instance)
    reference = jax.lax.stop_gradient(instance.residual_norm(cold_start))

    def one_step(instance: Instance, progress: Progress) -> tuple[Progress, jax.Array]:
        after = take_step(solver, instance, progress)
        return after, goes_on(solver, after)

    # The first verdict is final here, so a lack of progress stops the steps only where half of the digits are reached.
    level = trees.epsilon(start) ** 0.5 * reference
    begin = enter(solver, solver.init(instance, start), reference, level)
    going = goes_on(solver, begin)
    step = partial(one_step, instance)
    forward = None if instance.plain is None else partial(one_step, instance.plain)
    progress = differentiable_while(step, begin, going, solver.max_steps, forward)
    counts = progress.state.counts.add(progress.again)
    progress = progress._replace(state=progress.state._replace(counts=counts))
    return outcome(instance, conclude(solver, instance, progress, reference, cold_start))


def enter(solver: Solver, state: State, reference: jax.Array, level: float | jax.Array) -> Progress:
    """The progress before the first step."""
    state, none, no_steps = state.settled(), Counts().as_arrays(), jnp.int32(0)
    start_alone = none.plus(jacobian_products=1) if solver.keeps_gradient else none
    kind = state.residual.dtype
    # No solver reduces the residual below a few units of rounding of its start.
    target = jnp.maximum(solver.tol, 4 * trees.epsilon(state.params)) * reference + zero_level(reference)
    # The larger of both, because a warm start may be worse than the cold one.
    ceiling = jnp.full_like(reference, jnp.inf) if solver.descends else GROWTH * jnp.maximum(reference, state.residual)
    return Progress(
        state=state,
        steps=no_steps,
        best=state.residual,
        lowest=objective(solver, state),
        falls=jnp.bool_(False),
        since_best=no_steps,
        target=target.astype(kind),
        level=jnp.asarray(level, kind),
        ceiling=ceiling.astype(kind),
        onward=jnp.bool_(False),
        derivative=start_alone,
        again=none,
        last=none,
    )


def take_step(solver: Solver, instance: Instance, progress: Progress) -> Progress:
    state = solver.step(instance, progress.state).settled()
    fell = state.residual < progress.best  # by any amount, because slow progress is progress
    if state.curvature is not None:
        fell |= state.curvature < 0  # away from a saddle the gradient grows
    value, lowest, falls = objective(solver, state), progress.lowest, progress.falls
    if value is not None and lowest is not None:
        # Along a bent valley the gradient may grow for many steps while the objective falls.
        fell |= lowest - value > 10 * trees.epsilon(state.params) * jnp.abs(lowest)
        falls = lowest - value > FALLING * jnp.abs(value)
        lowest = jnp.fmin(lowest, value)
    # Constant, because a reverse pass would evaluate the residual again to know which of the two it was.
    best = jax.lax.stop_gradient(jnp.where(fell, state.residual, progress.best))
    last, again = _reversed(solver, progress, state)
    derivative = progress.derivative.add(state.derivative)
    return progress._replace(
        state=state,
        steps=progress.steps + 1,
        best=best,
        lowest=lowest,
        falls=falls,
        since_best=jnp.where(fell, 0, progress.since_best + 1),
        onward=jnp.bool_(False),
        derivative=derivative,
        again=again,
        last=last,
    )


def _reversed(solver: Solver, progress: Progress, state: State) -> tuple[Counts, Counts]:
    """The cost of this step, and the cost of the steps that reverse mode takes again: each step for its derivative, and
    each step but the last of its segment once more for the state that it leads to."""
    last = jax.tree.map(jnp.subtract, state.counts, progress.state.counts)
    recomputed = progress.steps % segment_length(solver.max_steps) != 0
    again = jax.tree.map(lambda all, before: all + jnp.where(recomputed, before, 0), progress.again, progress.last)
    return last, again.add(last)


def goes_on(solver: Solver, progress: Progress) -> jax.Array:
    """Whether another step is due before the point is judged."""
    residual, ending = progress.state.residual, ending_of(solver, progress)
    open_ = (residual > progress.target) | bends_down(progress.state.curvature, progress.state.params)
    calm = open_ & jnp.isfinite(residual) & (ending.code == Code.converged)
    quiet = ending.quiet & (progress.best <= progress.level)
    return ~ending.exhausted & (progress.onward | (calm & ~ending.grown & ~quiet))


def ending_of(solver: Solver, progress: Progress, empty: bool | jax.Array = False) -> Ending:
    grown = progress.state.residual > progress.ceiling
    quiet = progress.since_best >= solver.patience
    exhausted = progress.steps >= solver.max_steps
    return Ending(jnp.asarray(progress.state.code), grown, quiet, jnp.asarray(empty), exhausted)


def sentence(
    solver: Solver, instance: Instance, progress: Progress, reference: jax.Array, cold_start: Params
) -> Judged:
    """The verdict of `conclude`. Where the solver never examines curvature, a second look does: the steps begin again
    at a saddle and at a point whose objective is far above the minimum."""
    judged = conclude(solver, instance, progress, reference, cold_start)
    if progress.state.curvature is not None or not can_look(instance):
        return judged
    solved, params = ~judged.goes_on & (judged.code <= Code.stalled), progress.state.params
    left = progress.steps < solver.max_steps
    seen = second_look(instance, Asked(params, cold_start, solved, judged.apart, left, solver.tol))
    counts = judged.progress.state.counts.add(seen.counts)

    state = judged.progress.state._replace(params=trees.select(seen.found, seen.better, params), counts=counts)
    onward = judged.progress._replace(state=state, steps=progress.steps + seen.found)
    code = sentenced(judged.code, seen, params)
    return Judged(onward, judged.goes_on | seen.found, code, judged.residual, seen.least, judged.apart, seen.found)


def conclude(
    solver: Solver, instance: Instance, progress: Progress, reference: jax.Array, cold_start: Params
) -> Judged:
    """The verdict where the steps stopped, the residual recomputed there."""
    state, epsilon = progress.state, trees.epsilon(progress.state.params)
    # A residual that is small only beside a steep start is no solution while the objective falls.
    lenient = jnp.where(progress.falls, 1, LENIENT)

    def enough(residual: jax.Array, local: jax.Array) -> jax.Array:
        return residual <= solver.tol * jnp.minimum(reference, lenient * local)

    asked = Questions(enough, lambda residual, local: vanishes(residual, local, reference, epsilon))
    scales = look(instance, state.params, cold_start, asked)
    limit = limits(scales, solver.tol, reference, epsilon, lenient)
    ending = ending_of(solver, progress, is_empty(instance.penalty, instance.hparams, state.params))
    code, further = judge(ending, scales, limit, without_end(scales, reference, epsilon))
    left = ~ending.exhausted & (ending.code == Code.converged)
    further |= (code <= Code.stalled) & left & bends_down(state.curvature, state.params)
    code = jnp.where((code <= Code.stalled) & refuted(state.curvature, state.params), Code.indefinite, code)
    looks = scales.evaluations
    counts = state.counts.plus(gradients=looks, proxes=looks * instance.mapping.prox_calls)
    ceiling = jnp.where(ending.grown, GROWTH * scales.residual, progress.ceiling)
    onward = progress._replace(
        state=state._replace(counts=counts.as_arrays()),
        since_best=jnp.where(ending.quiet, 0, progress.since_best),
        target=limit.converged.astype(progress.target.dtype),
        ceiling=ceiling.astype(progress.ceiling.dtype),
        onward=further,
    )
    found = relative(scales, limit, reference, epsilon)
    curvature = jnp.full_like(found.residual, jnp.nan) if state.curvature is None else state.curvature
    return Judged(onward, further, code.astype(jnp.int32), found, curvature, scales.apart, jnp.bool_(False))


def outcome(instance: Instance, judged: Judged) -> Outcome:
    """The solution at the point that was judged last; its cost includes the cost of the reference."""
    found = judged.residual
    state, steps, derivative = judged.progress.state, judged.progress.steps, judged.progress.derivative
    counts = state.counts.plus(gradients=1, proxes=instance.mapping.prox_calls)
    looked = state.curvature is not None or can_look(instance)
    # A fresh NaN otherwise, because `jax_debug_nans` stops at a NaN that went through the loop.
    curvature = judged.curvature if looked else jnp.full_like(found.residual, jnp.nan)
    status = Status.of(judged.code)
    return Outcome(state.params, found.residual, steps, status, counts, state, derivative, curvature, found.distance)
