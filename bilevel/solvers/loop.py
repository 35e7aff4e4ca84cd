"""The one loop: it runs (lax.while_loop) or unrolls (checkpointed scan) the steps of any solver."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel import trees
from bilevel.solvers.base import Solver, State
from bilevel.solvers.instance import Instance
from bilevel.status import Code, Status
from bilevel.typing import Counts, Params

GROWTH = 1e8  # a residual this many times the start's has diverged


class Progress(NamedTuple):
    """A solver's state with what the stopping rule remembers."""

    state: State
    steps: jax.Array
    best: jax.Array  # the smallest residual so far
    since_best: jax.Array  # steps since it fell by at least a tenth


class Outcome(NamedTuple):
    """What a solve ends with. ``residual`` is relative to the cold start's."""

    params: Params
    residual: jax.Array
    steps: jax.Array
    status: Status
    counts: Counts
    state: State


def iterate(solver: Solver, instance: Instance, start: Params, cold_start: Params) -> Outcome:
    """Steps from ``start`` until ||F(w)|| <= tol * ||F(cold_start)||, max_steps, or a failure; jit- and vmap-safe."""
    solver.refuse(instance)
    reference = instance.residual_norm(cold_start)
    progress = jax.lax.while_loop(
        lambda progress: _going(solver, progress, reference, start),
        lambda progress: _advance(solver, instance, progress),
        _begin(solver, instance, start),
    )
    return _conclude(solver, instance, progress, reference, start)


def unroll(solver: Solver, instance: Instance, start: Params, cold_start: Params) -> Outcome:
    """As `iterate`, differentiable in reverse mode: about sqrt(max_steps) states are kept, the others recomputed, and
    of a step nothing but the state it starts from."""
    solver.refuse(instance)
    reference = jax.lax.stop_gradient(instance.residual_norm(cold_start))
    length = max(1, math.isqrt(solver.max_steps - 1) + 1) if solver.max_steps else 1

    @jax.checkpoint
    def advance(progress: Progress) -> Progress:
        return _advance(solver, instance, progress)

    def guarded(progress: Progress, _: None) -> tuple[Progress, None]:
        going = _going(solver, progress, reference, start)
        return jax.lax.cond(going, advance, lambda progress: progress, progress), None

    @jax.checkpoint
    def segment(progress: Progress) -> Progress:
        return jax.lax.scan(guarded, progress, length=length)[0]

    def guarded_segment(progress: Progress, _: None) -> tuple[Progress, None]:
        going = _going(solver, progress, reference, start)
        return jax.lax.cond(going, segment, lambda progress: progress, progress), None

    begin = _begin(solver, instance, start)
    progress, _ = jax.lax.scan(guarded_segment, begin, length=-(-solver.max_steps // length))
    counts = jax.tree.map(lambda end, first: end + 2 * (end - first), progress.state.counts, begin.state.counts)
    progress = progress._replace(state=progress.state._replace(counts=counts))  # reverse mode takes the steps thrice
    return _conclude(solver, instance, progress, reference, start)


def _begin(solver: Solver, instance: Instance, start: Params) -> Progress:
    state = _settled(solver.init(instance, start))
    return Progress(state, jnp.int32(0), jax.lax.stop_gradient(state.residual), jnp.int32(0))


def _settled(state: State) -> State:
    """The state with its bookkeeping in fixed types, as a loop needs it."""
    return state._replace(counts=state.counts.as_arrays(), code=jnp.asarray(state.code, jnp.int32))


def _advance(solver: Solver, instance: Instance, progress: Progress) -> Progress:
    state = _settled(solver.step(instance, progress.state))
    residual = jax.lax.stop_gradient(state.residual)
    fell = residual < 0.9 * progress.best
    best = jnp.where(fell, residual, progress.best)
    return Progress(state, progress.steps + 1, best, jnp.where(fell, 0, progress.since_best + 1))


def _target(solver: Solver, reference: jax.Array, start: Params) -> jax.Array:
    return jnp.maximum(solver.tol, 4 * trees.epsilon(start)) * reference


def _stalled(solver: Solver, progress: Progress, reference: jax.Array, start: Params) -> jax.Array:
    floor = math.sqrt(trees.epsilon(start)) * reference
    return (progress.since_best >= solver.patience) & (progress.best <= floor)


def _going(solver: Solver, progress: Progress, reference: jax.Array, start: Params) -> jax.Array:
    residual = progress.state.residual
    return (
        (progress.steps < solver.max_steps)
        & (residual > _target(solver, reference, start))
        & jnp.isfinite(residual)
        & (residual <= GROWTH * jnp.maximum(reference, progress.best))
        & (progress.state.code == Code.converged)
        & ~_stalled(solver, progress, reference, start)
    )


def _conclude(solver: Solver, instance: Instance, progress: Progress, reference: jax.Array, start: Params) -> Outcome:
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
    return Outcome(state.params, relative, progress.steps, Status.of(code), counts, state)
