"""The second look at a point with a small residual: is it a saddle, or is the objective far above its minimum?

Only products with the Hessian are used."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params
from bilevel.solvers.curvature import (
    Curvature,
    bends_down,
    convex_in_predictions,
    cost_of_a_look,
    is_told_by_predictions,
    least_curvature,
    may_expand,
    refuted,
    unseen,
)
from bilevel.solvers.instance import Instance

SHARE = 1e-2  # of the fall of the objective since the cold start: a point from which it falls by more is no minimum
MAX_TRIALS = 30  # points on each side of a saddle


class Asked(NamedTuple):
    """Where to look, and how far."""

    params: Params
    cold: Params
    solved: jax.Array  # whether the residual is small; nothing is looked at elsewhere
    uneven: jax.Array  # whether coordinates may have units of their own
    left: jax.Array  # whether steps are left
    tol: float | jax.Array


class Seen(NamedTuple):
    """The findings of the look."""

    least: jax.Array  # the least curvature, see `Solution.curvature`
    unfinished: jax.Array  # whether a step of Newton's method lowers the objective by more than `SHARE`
    better: Params  # a point with a lower objective to go on from
    found: jax.Array  # whether there is one, and steps are left
    counts: Counts
    vain: jax.Array  # whether the Hessian was looked at and is not finite


class Trials(NamedTuple):
    """The points whose objective is compared, one after the other: the point itself, and those that `lower` lists."""

    number: jax.Array
    params: Params
    here: jax.Array  # the objective at the point itself
    cold: jax.Array  # at the cold start
    found: jax.Array


def second_look(instance: Instance, asked: Asked) -> Seen:
    """The look at a point where a solver that sees no curvature stopped."""
    params, solved, no = asked.params, asked.solved, jnp.bool_(False)
    even = convex = no
    if is_told_by_predictions(instance, params):
        even = solved & ~asked.uneven
        convex = jax.lax.cond(even, lambda: convex_in_predictions(instance, params), lambda: no)
        solved &= ~convex  # where it is looked at more closely
    seen = jax.lax.cond(solved, lambda: least_curvature(instance, params, asked.uneven), lambda: unseen(params))
    least = jnp.where(convex, 0, seen.least)
    cost = cost_of_a_look(instance, params, asked.uneven)
    counts, once = jax.tree.map(lambda number: jnp.where(solved, number, 0), cost), even.astype(jnp.int32)
    counts = counts.plus(gradients=once, proxes=once * may_expand(instance))
    if not instance.complete:
        return Seen(least, no, params, no, counts, seen.vain)
    known = solved & ~jnp.isnan(seen.least)
    saddle = known & bends_down(seen.least, params) & asked.left
    tried = lower(instance, asked, seen, known, saddle)
    counts = counts.plus(proxes=tried.number * instance.mapping.prox_calls)  # one in each round of the loop
    return Seen(least, tried.found & ~saddle, tried.params, tried.found & asked.left, counts, seen.vain)


def sentenced(code: jax.Array, seen: Seen, params: Params) -> jax.Array:
    """The code of a point after the look."""
    # Where the Hessian is not finite the steps may be the reason for a lack of progress, and not the precision.
    unfinished = seen.unfinished | (seen.vain & (code == Code.stalled))
    code = jnp.where(unfinished, jnp.int32(Code.max_steps), code)
    return jnp.where(refuted(seen.least, params), jnp.int32(Code.indefinite), code)


def lower(instance: Instance, asked: Asked, seen: Curvature, known: jax.Array, saddle: jax.Array) -> Trials:
    """A feasible point with a lower objective; ``found`` where there is one.

    From a saddle it is searched along the negative curvature, on both sides and from far to near. Elsewhere it is the
    end of Newton's step, and counts where the objective there is lower by more than `SHARE`. The reason is that a
    residual is a norm over coordinates. Where these have different units, as with columns of a design of 1e8 and 1e-8,
    the norm is small as soon as the coordinates of the largest columns are solved. The objective has one unit, so it
    shows whether the other coordinates are solved too.
    """
    params, cold, way = jax.lax.stop_gradient(
        (asked.params, asked.cold, trees.select(saddle, seen.direction, seen.step))
    )
    length = trees.norm(way)
    first = jnp.maximum(1, trees.norm(params)) / jnp.where(length > 0, length, 1)
    # A loose tolerance leaves its square times the condition number of the fall, and that much was asked for.
    share = jnp.maximum(SHARE, jnp.sqrt(asked.tol))

    # One loop for both, because the objective is then compiled once.
    def attempt(trials: Trials) -> Trials:
        number, trial = trials.number, jnp.maximum(trials.number - 1, 0)
        side = jnp.where(trial % 2 == 0, 1, -1)
        ahead = trees.axpy(jnp.where(saddle, side * first * 0.25 ** (trial // 2), 1), way, params)
        moved = instance.prox(trees.select(saddle | (number != 1), ahead, cold), 0.0)
        at = trees.select(number == 0, params, moved)
        value = instance.objective(at)
        here = jnp.where(number == 0, value, trials.here)
        at_cold = jnp.where(~saddle & (number == 1), value, trials.cold)
        fall = jnp.where(saddle, 0, share * jnp.maximum(at_cold - here, 0))
        needed = fall + 10 * trees.epsilon(params) * (jnp.abs(here) + jnp.abs(at_cold))
        found = (here - value > needed) & (number >= jnp.where(saddle, 1, 2))
        return Trials(number + 1, at, here, at_cold.astype(value.dtype), found)

    last = jnp.where(saddle, 2 * MAX_TRIALS, 2)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(instance.objective, params))
    begin = Trials(jnp.int32(0), params, nothing, nothing, jnp.bool_(False))
    end = jax.lax.while_loop(lambda trials: known & ~trials.found & (trials.number <= last), attempt, begin)
    return jax.lax.stop_gradient(end)
