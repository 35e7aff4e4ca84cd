"""The verdict on where a solver stopped: whether its residual is small at the scales of that point, and how it ended.

A residual that is small beside that of the cold start is no solution where the start was bad, and one of rounding size
cannot be made smaller. So three scales are looked at:

    reference   ||F(cold)||: the tolerance is relative to it;
    local       ||A (w - cold)||, A = dF/dw here: what the start would have left if A were the same all the way. Of a
                quadratic it is the reference; where the start was steeper than the solution is, it is less;
    terms       the size of what cancels in F(w), of which rounding leaves a few units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Params, PyTree
from bilevel.optimality import KKT, ProjectedGradient, ProximalGradient, Stationary
from bilevel.solvers.base import FIXED_POINTS
from bilevel.solvers.instance import OF_THE_GRADIENT, Instance

LENIENT = 100.0  # how many times ``local`` the reference may be before the start counts as a bad one
ROUNDING = 10.0  # units of roundoff of ``terms`` that count as zero
NEARLY = 1e3  # units of it within which no progress is the floor of the precision
UNSOLVED = 1e-2  # the share of a change from which on a residual is that of a coordinate that is not solved yet
GROWTH = 1e8  # a residual this many times the start's has diverged
TURNS = 10.0  # a loss that turns within so many times the way from the cold start is bounded on it


class Scales(NamedTuple):
    """What is seen at a point, all norms."""

    residual: jax.Array
    local: jax.Array
    terms: jax.Array
    far: jax.Array  # whether the point is so far from the start that half the digits of the start are lost
    outward: jax.Array  # whether the steps there lead further away from the start
    flat: jax.Array  # and no turn of the loss is in sight on that way
    grows: jax.Array  # whether a residual that grows is no sign of divergence
    apart: jax.Array  # whether what is left is in coordinates that the steps have hardly changed
    evaluations: jax.Array  # of F


class _Seen(NamedTuple):
    number: jax.Array
    here: PyTree  # F(w)
    residual: jax.Array
    local: jax.Array
    size: jax.Array  # ||A w||
    bend: jax.Array  # <A (w - cold), w - cold>
    value: jax.Array  # of the loss
    apart: jax.Array  # as of `Scales`


def look(
    instance: Instance, params: Params, cold: Params, enough: Callable[[jax.Array, jax.Array], jax.Array]
) -> Scales:
    """The scales at ``params``; the size of the terms only where ``enough(residual, local)`` is false.

    A d is the difference of two residuals that are half the digits of d apart: exact for a quadratic, and else as far
    as a scale needs. One copy of F is compiled for all points.
    """
    params, cold, hparams, batch = jax.lax.stop_gradient((params, cold, instance.hparams, instance.batch))
    instance = instance.with_values(hparams, batch)
    way, small = trees.subtract(params, cold), trees.epsilon(params) ** 0.5

    def body(seen: _Seen) -> _Seen:
        back = jnp.where(seen.number == 1, -small, 0.0)
        down = jnp.where(seen.number == 2, -small, 0.0)
        at = instance.residual(trees.axpy(back, way, trees.axpy(down, params, params)))
        first, second = seen.number == 0, seen.number == 1
        here = trees.select(first, at, seen.here)
        change = jax.tree.map(lambda a, b: (a - b) / small, here, at)
        size = trees.norm(change)
        return _Seen(
            seen.number + 1,
            here,
            jnp.where(first, trees.norm(at), seen.residual),
            jnp.where(second, size, seen.local),
            jnp.where(first | second, seen.size, size),
            jnp.where(second, trees.dot(change, way).astype(size.dtype), seen.bend),
            jnp.where(first | second, seen.value, _size_of_loss(instance, params, ~(first | second), size.dtype)),
            jnp.where(second, _apart(here, change), seen.apart),
        )

    def unfinished(seen: _Seen) -> jax.Array:
        return (seen.number < 2) | ((seen.number == 2) & ~enough(seen.residual, seen.local))

    shapes = jax.eval_shape(instance.residual, params)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    zero = jnp.zeros_like(trees.norm(nothing))
    seen = jax.lax.while_loop(
        unfinished, body, _Seen(jnp.int32(0), nothing, zero, zero, zero, zero, zero, jnp.bool_(False))
    )
    return _scales(instance, params, cold, seen)


def _apart(here: PyTree, change: PyTree) -> jax.Array:
    """Whether the residual ``here`` is small beside ``change``, A (w - cold), by norms alone: most of it is in
    coordinates in which it is as large as all that the way there changed. So it is along columns of other units."""

    def unchanged(left: jax.Array, change: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(left) > UNSOLVED * jnp.abs(change), left, 0)

    left, size = trees.norm(jax.tree.map(unchanged, here, change)), trees.norm(here)
    return (left > 0.5 * size) & (size <= UNSOLVED * trees.norm(change))


def _size_of_loss(instance: Instance, params: Params, asked: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """|loss(params)| where it is asked for and there is a loss; else 0."""
    if not isinstance(instance.mapping, OF_THE_GRADIENT):
        return jnp.zeros((), dtype)
    value = jax.lax.cond(asked, lambda: jnp.abs(instance.value(params)).astype(dtype), lambda: jnp.zeros((), dtype))
    return jnp.where(jnp.isfinite(value), value, 0)


def _scales(instance: Instance, params: Params, cold: Params, seen: _Seen) -> Scales:
    way, size = trees.subtract(params, cold), trees.norm(params)
    length = trees.norm(way)
    local = jnp.where(jnp.isfinite(seen.local), seen.local, jnp.inf)  # a step out of the domain says nothing
    terms = jnp.where(jnp.isfinite(seen.size), seen.size, 0)
    steepness = jnp.maximum(_ratio(terms, size), jnp.where(jnp.isfinite(local), _ratio(local, length), 0))
    # A gradient g promises a decrease of g^2 / (2 L), which below eps^2 |loss| is rounding whatever the terms of g.
    terms = jnp.maximum(terms, jnp.sqrt(2 * steepness * seen.value))
    if isinstance(instance.mapping, FIXED_POINTS):
        small = trees.epsilon(params) ** 0.5  # F = T(w) - w, unless T is w and a constant, as of a linear loss
        terms = jnp.maximum(terms, jnp.minimum(size, terms / small))
    outward = flat = jnp.bool_(False)
    if isinstance(instance.mapping, (Stationary, ProximalGradient, ProjectedGradient)):
        sign = -1 if isinstance(instance.mapping, Stationary) else 1  # of F as a step
        slope = sign * trees.dot(seen.here, way)
        outward, flat = slope > 0, -sign * TURNS * seen.bend < slope
    far = length * trees.epsilon(params) ** 0.5 > 1 + trees.norm(cold)
    # Outward a gradient grows where a minimiser descends; multipliers grow where no point is feasible, which the
    # solver has still to prove.
    grows = outward | isinstance(instance.mapping, KKT)
    apart = seen.apart & isinstance(instance.mapping, OF_THE_GRADIENT)
    return Scales(seen.residual, local, terms, far, outward, flat, grows, apart, seen.number)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


class Limits(NamedTuple):
    """What a residual is compared with where a solver stopped."""

    converged: jax.Array  # at or below it, the point is a solution
    floor: jax.Array  # at or below it, no progress is the floor of the precision
    rounding: jax.Array  # what rounding leaves


def limits(scales: Scales, tol: float | jax.Array, reference: jax.Array, epsilon: float) -> Limits:
    """Relative to the reference, but no more than to LENIENT times ``local``; and never below rounding."""
    relative = jnp.minimum(reference, LENIENT * scales.local)
    rounding = ROUNDING * epsilon * scales.terms
    floor = jnp.maximum(epsilon**0.5 * relative, NEARLY * epsilon * scales.terms)
    return Limits(jnp.maximum(tol * relative, rounding), floor, rounding)


def without_end(scales: Scales, reference: jax.Array, epsilon: float) -> jax.Array:
    """Whether the loss falls on and on: far from the start with no turn in sight, or with a gradient that vanished
    beside that of the start and is as large as ever beside the curvature (log(1 + exp(-w)))."""
    beyond = scales.far & scales.flat
    vanished = (scales.residual <= epsilon**2 * reference) & (scales.residual > epsilon**0.5 * scales.local)
    return scales.outward & (beyond | vanished)


class Ending(NamedTuple):
    """Why the steps stopped."""

    code: jax.Array  # the solver's own
    grown: jax.Array  # the residual grew beyond all measure
    quiet: jax.Array  # no smaller residual for as long as the solver's patience
    empty: jax.Array  # the set holds no point
    exhausted: jax.Array  # no steps are left


def judge(ending: Ending, scales: Scales, limits: Limits, unbounded: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The code of the solve, and whether it goes on instead."""
    stuck = ending.code == Code.stalled
    failed = (ending.code != Code.converged) & ~stuck
    precise = (scales.residual <= limits.floor) & ~scales.apart
    cases = [
        (ending.empty, Code.infeasible),
        (~jnp.isfinite(scales.residual), Code.nonfinite),
        (scales.residual <= limits.converged, Code.converged),
        (unbounded, Code.unbounded),
        (failed, ending.code),
        ((stuck | ending.quiet) & precise, Code.stalled),
        (ending.grown & ~scales.grows, Code.diverged),
        (stuck | ending.exhausted, Code.max_steps),
    ]
    code = jnp.select([case for case, _ in cases], [code for _, code in cases], Code.max_steps)
    goes_on = ~jnp.any(jnp.stack([case for case, _ in cases]))
    return code, goes_on
