"""The verdict on where a solver stopped: whether its residual is small at the scales of that point, and how it ended.

A residual that is small beside the residual at the cold start proves nothing where the start was bad, and a residual of
the size of rounding cannot be reduced. So a residual is compared with three scales:

    reference   ||F(cold)||: the tolerance is relative to it;
    local       ||A (w - cold)|| with A = dF/dw at w: the residual that the start would have if A were constant. For a
                quadratic it equals the reference; it is less where the start is steeper than the solution;
    terms       the size of the terms that cancel in F(w), because rounding leaves a few units of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.signs import tree_of_signs
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Params, PyTree
from bilevel.solvers.instance import Instance

LENIENT = 100.0  # a start is bad if the reference is more than so many times ``local``
FALLING = 1e-6  # while a step lowers the loss by more than this share, a start is bad at one time ``local``
ROUNDING = 10.0  # units of roundoff of ``terms`` that count as zero
NEARLY = 1e3  # within so many units of it a lack of progress is the floor of the precision
LEVEL = 100.0  # units of roundoff of a loss: a smaller change over half of the digits is that of a curvature
UNSOLVED = 1e-2  # a coordinate whose residual is this share of its change on the way is not solved yet
GROWTH = 1e8  # a residual so many times the residual at the start has diverged
TURNS = 10.0  # a loss is bounded along a ray if it turns within so many times the way from the cold start


class Scales(NamedTuple):
    """The norms and flags at a point that a verdict reads."""

    residual: jax.Array
    local: jax.Array
    terms: jax.Array
    way: jax.Array  # from the cold start, beside the size of the point; infinite where that is 0
    far: jax.Array  # whether the point is so far from the start that the start loses half of its digits beside it
    outward: jax.Array  # whether the steps at the point lead further away from the start
    falls: jax.Array  # whether the loss still falls TURNS times that way beyond the point; False where not looked at
    grows: jax.Array  # whether a residual that grows is no sign of divergence
    apart: jax.Array  # whether the remaining residual is in coordinates that the steps have hardly changed
    evaluations: jax.Array  # of F


class _Seen(NamedTuple):
    number: jax.Array
    here: PyTree  # F(w)
    residual: jax.Array
    local: jax.Array
    size: jax.Array  # ||A w||; of signs d where w = 0, ||A d||
    value: jax.Array  # loss(w); 0 where there is no loss
    objective: jax.Array  # the same with the penalty
    level: jax.Array  # whether the loss hardly changes from w to w - small w
    apart: jax.Array  # as of `Scales`
    falls: jax.Array  # as of `Scales`


class Questions(NamedTuple):
    """What is asked of a residual and of ``local``, to decide how closely a point is looked at."""

    enough: Callable[[jax.Array, jax.Array], jax.Array]  # whether the point is a solution
    vanished: Callable[[jax.Array, jax.Array], jax.Array]  # whether the residual is that of a loss without a minimum


def look(instance: Instance, params: Params, cold: Params, asked: Questions) -> Scales:
    """The scales at ``params``; the size of the terms only where the point is not a solution.

    A d is a finite difference of the residual over a step of half the digits of d: exact for a quadratic, and else
    accurate enough for a scale. One copy of F is compiled for all points.
    """
    params, cold, hparams, batch = jax.lax.stop_gradient((params, cold, instance.hparams, instance.batch))
    instance = instance.with_values(hparams, batch)
    way, small = trees.subtract(params, cold), trees.epsilon(params) ** 0.5
    length = trees.norm(way)
    far = length * small > 1 + trees.norm(cold)
    # Beyond a far point only the coordinates that are far go on, because the others may have ends.
    beyond = jax.tree.map(lambda leaf: jnp.where(far & (jnp.abs(leaf) < small * length), 0, leaf), way)
    # At params of zero the curvature along them is unknown, but the loss may have a size that the residual rounds with.
    along = trees.select(trees.norm(params) > 0, params, tree_of_signs(params))

    def body(seen: _Seen) -> _Seen:
        back = jnp.where(seen.number == 1, -small, 0.0)
        down = jnp.where(seen.number == 2, -small, 0.0)
        on = jnp.where(seen.number == 3, TURNS, 0.0)
        point = trees.axpy(on, beyond, trees.axpy(back, way, trees.axpy(down, along, params)))
        value, at = instance.value_and_residual(point)
        objective = value + (instance.penalty.value(point, hparams) if instance.complete else 0)
        first, second = seen.number == 0, seen.number == 1
        here = trees.select(first, at, seen.here)
        change = jax.tree.map(lambda a, b: (a - b) / small, here, at)
        size = trees.norm(change)
        ahead = instance.mapping.downhill * trees.dot(at, beyond)
        lost = far & jnp.isnan(seen.objective)  # steps that read gradients alone have left the domain of the loss
        return _Seen(
            seen.number + 1,
            here,
            jnp.where(first, trees.norm(at), seen.residual),
            jnp.where(second, size, seen.local),
            jnp.where(seen.number == 2, size, seen.size),
            jnp.where(first, value.astype(size.dtype), seen.value),
            jnp.where(first, objective.astype(size.dtype), seen.objective),
            jnp.where(seen.number == 2, jnp.abs(value - seen.value) <= LEVEL * small**2 * jnp.abs(value), seen.level),
            jnp.where(second, _apart(here, change), seen.apart),
            (seen.number == 3) & (ahead >= 0) & ((objective <= seen.objective) | lost),  # False for NaN
        )

    def unfinished(seen: _Seen) -> jax.Array:
        unsolved = ~asked.enough(seen.residual, seen.local)
        doubtful = bool(instance.mapping.downhill) & (far | asked.vanished(seen.residual, seen.local))
        return (seen.number < 2) | ((seen.number == 2) & unsolved) | ((seen.number == 3) & doubtful)

    shapes = jax.eval_shape(instance.residual, params)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    zero = jnp.zeros_like(trees.norm(nothing))
    no = jnp.bool_(False)
    begin = _Seen(jnp.int32(0), nothing, zero, zero, zero, zero, zero, no, no, no)
    seen = jax.lax.while_loop(unfinished, body, begin)
    return _scales(instance, params, far, way, seen, trees.norm(along))


def _apart(here: PyTree, change: PyTree) -> jax.Array:
    """Whether the residual ``here`` is small beside ``change``, A (w - cold), in norm only. Then most of it lies in
    coordinates where it is as large as the whole change on the way, because these coordinates have other units."""

    def unchanged(left: jax.Array, change: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(left) > UNSOLVED * jnp.abs(change), left, 0)

    left, size = trees.norm(jax.tree.map(unchanged, here, change)), trees.norm(here)
    return (left > 0.5 * size) & (size <= UNSOLVED * trees.norm(change))


def _scales(instance: Instance, params: Params, far: jax.Array, way: Params, seen: _Seen, probed: jax.Array) -> Scales:
    """The scales from what was seen, and the length ``probed`` of w, or of the signs."""
    length, size = trees.norm(way), trees.norm(params)
    local = jnp.where(jnp.isfinite(seen.local), seen.local, jnp.inf)  # a step out of the domain says nothing
    terms = jnp.where(jnp.isfinite(seen.size), seen.size, 0)
    steepness = jnp.maximum(_ratio(terms, probed), jnp.where(jnp.isfinite(local), _ratio(local, length), 0))
    terms = jnp.where(size > 0, terms, 0)
    # A gradient g promises a decrease of g^2 / (2 L); below eps^2 |loss| that is rounding for every size of g's terms.
    # A residual that a set cuts off promises more, and then the loss changes around the point.
    # The roots are multiplied, because the product of the two overflows at a loss of 1e20 in float32.
    promised = jnp.sqrt(2 * steepness) * jnp.sqrt(jnp.abs(seen.value))
    known = (seen.number > 2) & jnp.isfinite(promised) & seen.level  # whether ``terms`` are
    terms = jnp.maximum(terms, jnp.where(known, promised, 0))
    if instance.mapping.iterates:
        small = trees.epsilon(params) ** 0.5  # F = T(w) - w, unless T(w) is w plus a constant, as for a linear loss
        terms = jnp.maximum(terms, jnp.minimum(size, terms / small))
    outward = jnp.bool_(False)
    if sign := instance.mapping.downhill:
        outward = sign * trees.dot(seen.here, way) > 0
    # A gradient may grow outward where a minimiser descends. Multipliers grow where no point is feasible, which the
    # solver has yet to prove.
    grows = outward | instance.mapping.primal_dual
    apart = seen.apart & instance.mapping.of_gradient
    share = jnp.where(size > 0, _ratio(length, size), jnp.inf)
    return Scales(seen.residual, local, terms, share, far, outward, seen.falls, grows, apart, seen.number)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


class Limits(NamedTuple):
    """The levels that a residual is compared with where a solver stopped."""

    converged: jax.Array  # at or below it, the point is a solution
    floor: jax.Array  # at or below it, no progress is the floor of the precision
    rounding: jax.Array  # the level of rounding


def zero_level(reference: jax.Array) -> jax.Array:
    """The residual that counts as zero where the cold start solves the problem exactly, so that its residual gives no
    scale: the root of the smallest number. Multipliers that a first step raised fall towards 0 and never reach it."""
    return jnp.where(reference > 0, 0, jnp.sqrt(jnp.finfo(reference.dtype).tiny))


def limits(
    scales: Scales, tol: float | jax.Array, reference: jax.Array, epsilon: float, lenient: float | jax.Array = LENIENT
) -> Limits:
    """The tolerance times the reference, but at most times ``lenient`` x ``local``; and never below rounding."""
    relative = jnp.minimum(reference, lenient * scales.local)
    rounding = ROUNDING * epsilon * scales.terms
    floor = jnp.maximum(epsilon**0.5 * relative, NEARLY * epsilon * scales.terms)
    return Limits(jnp.maximum(jnp.maximum(tol * relative, rounding), zero_level(reference)), floor, rounding)


class Relative(NamedTuple):
    """A residual without its unit."""

    residual: jax.Array  # beside the cold start, or beside its terms where it is rounding
    distance: jax.Array  # to first order from the solution, beside its size, had all directions one curvature


def relative(scales: Scales, limits: Limits, reference: jax.Array, epsilon: float) -> Relative:
    solved = scales.residual <= limits.rounding  # no residual is large beside a start of rounding size either
    yardstick = jnp.where(solved, jnp.maximum(reference, scales.terms), reference)
    share = jnp.where(yardstick > 0, scales.residual / jnp.where(yardstick > 0, yardstick, 1.0), scales.residual)
    known = ~solved & (scales.local > 0) & jnp.isfinite(scales.local)
    distance = jnp.where(known, scales.residual / jnp.where(known, scales.local, 1) * scales.way, share)
    distance = jnp.clip(distance, share, share / epsilon**0.5)
    return Relative(share.astype(reference.dtype), distance.astype(reference.dtype))


def vanishes(residual: jax.Array, local: jax.Array, reference: jax.Array, epsilon: float) -> jax.Array:
    """Whether a residual is small beside that at the start but not beside the curvature, as for log(1 + exp(-w))."""
    return (residual <= epsilon**2 * reference) & (residual > epsilon**0.5 * local)


def without_end(scales: Scales, reference: jax.Array, epsilon: float) -> jax.Array:
    """Whether the loss falls without end: the point is far from the start, or the gradient vanishes, and the loss still
    falls far beyond the point. Without that look a steep start, which every gradient is small beside, would pass for
    it. The curvature on the way does not tell, because the residual of a set rounds to half of its digits there."""
    vanished = vanishes(scales.residual, scales.local, reference, epsilon)
    return scales.outward & (scales.far | vanished) & scales.falls


class Ending(NamedTuple):
    """The reason why the steps stopped."""

    code: jax.Array  # the solver's own
    grown: jax.Array  # the residual grew beyond all measure
    quiet: jax.Array  # the residual did not fall for as many steps as the solver's patience
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
