"""The second look at a point with a small residual: is it a saddle, or is the objective far above its minimum?

Only products with the Hessian are used."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.curvature import bends_down, cost_of_a_look, least_curvature, push, refuted, unseen
from bilevel.solvers.instance import Instance

SHARE = 1e-2  # of the fall of the objective since the cold start: a point from which it falls by more is no minimum


class Asked(NamedTuple):
    """Where to look, and how far."""

    params: Params
    cold: Params
    solved: jax.Array  # whether the residual is small; nothing is looked at elsewhere
    uneven: jax.Array  # whether coordinates may have units of their own
    left: jax.Array  # whether steps are left
    tol: float | jax.Array


class Seen(NamedTuple):
    """What the look found."""

    least: jax.Array  # the least curvature, see `Solution.curvature`
    unfinished: jax.Array  # whether a step of Newton's method lowers the objective by more than `SHARE`
    better: Params  # a point with a lower objective to go on from
    found: jax.Array  # whether there is one, and steps are left
    counts: Counts
    vain: jax.Array  # whether the Hessian was looked at and is not finite


class Further(NamedTuple):
    params: Params
    found: jax.Array


def second_look(instance: Instance, asked: Asked) -> Seen:
    """The look at a point where a solver that sees no curvature stopped."""
    params, solved, nothing = asked.params, asked.solved, Further(asked.params, jnp.bool_(False))
    least, direction, step, vain = jax.lax.cond(
        solved, lambda: least_curvature(instance, params, asked.uneven), lambda: unseen(params)
    )
    cost = cost_of_a_look(instance, params, asked.uneven)
    counts = jax.tree.map(lambda number: jnp.where(solved, number, 0), cost)
    known = solved & ~jnp.isnan(least)
    if not instance.complete:
        return Seen(least, nothing.found, params, nothing.found, counts, vain)
    saddle = known & bends_down(least, params) & asked.left
    pushed = push(instance, params, direction, saddle)
    ahead = jax.lax.cond(known & ~saddle, lambda: further(instance, asked, step), lambda: nothing)
    counts = counts.plus(proxes=jnp.where(known & ~saddle, 2 * instance.mapping.prox_calls, 0))
    better = trees.select(pushed.found, pushed.params, ahead.params)
    return Seen(least, ahead.found, better, pushed.found | (ahead.found & asked.left), counts, vain)


def sentenced(code: jax.Array, seen: Seen, params: Params) -> jax.Array:
    """The code of a point after the look."""
    # Beside a Hessian that is not finite a lack of progress may come from the steps; so the precision is not blamed.
    unfinished = seen.unfinished | (seen.vain & (code == Code.stalled))
    code = jnp.where(unfinished, jnp.int32(Code.max_steps), code)
    return jnp.where(refuted(seen.least, params), jnp.int32(Code.indefinite), code)


def further(instance: Instance, asked: Asked, step: PyTree) -> Further:
    """The feasible point at the end of ``step``; ``found`` where the objective there is lower by more than `SHARE`.

    A residual is a norm over coordinates. Where these have different units, as with columns of a design of 1e8 and
    1e-8, the norm is small as soon as the coordinates of the largest columns are solved. The objective has one unit,
    so it shows whether the other coordinates are solved too.
    """
    ends = asked.cold, trees.axpy(1.0, step, asked.params)
    feasible = [instance.prox(end, 0.0) for end in ends]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), feasible[0], asked.params, feasible[1])
    # Mapped in a loop, because the objective is then compiled once.
    at_cold, here, ahead = jax.lax.stop_gradient(jax.lax.map(instance.objective, stacked))
    rounding = 10 * trees.epsilon(asked.params) * (jnp.abs(here) + jnp.abs(at_cold))
    # A loose tolerance leaves the square of it times the condition number; what was asked for is enough.
    share = jnp.maximum(SHARE, jnp.sqrt(asked.tol))
    needed = share * jnp.maximum(at_cold - here, 0) + rounding
    return Further(jax.lax.stop_gradient(feasible[1]), here - ahead > needed)
