"""A line search on slopes: exact to the precision of gradients, not of function values."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Params, PyTree, Scalar
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import followed

SUFFICIENT = 1e-4  # Armijo constant
CURVATURE = 0.9  # Wolfe constant
MAX_TRIALS = 40  # values and gradients of one search; a good one takes one to three


class Rule(NamedTuple):
    """What a line search accepts, and how far it looks."""

    sufficient: float | jax.Array = SUFFICIENT
    curvature: float | jax.Array = CURVATURE
    strong: bool = False  # whether the slope may not be steep upwards either
    largest: float | jax.Array = jnp.inf  # the longest step
    most: int = MAX_TRIALS


class Point(NamedTuple):
    """A point on the line with its value and gradient."""

    step: jax.Array
    params: Params
    value: Scalar
    gradient: PyTree


class Search(NamedTuple):
    lower: jax.Array
    upper: jax.Array
    point: Point
    trials: jax.Array
    accepted: jax.Array


class Found(NamedTuple):
    """The end of a line search; a rejected search ends at its origin."""

    point: Point
    trials: jax.Array  # values and gradients evaluated
    accepted: jax.Array


def line_search(instance: Instance, origin: Point, direction: PyTree, first: jax.Array, rule: Rule = Rule()) -> Found:
    """A step t along a descent direction that satisfies the (approximate) Wolfe conditions, by bracketing.

        value(t) <= value(0) + c1 t slope(0)  or  slope(t) <= (2 c1 - 1) slope(0)  and  value(t) <= value(0) + rounding,
        slope(t) >= c2 slope(0), and slope(t) <= -c2 slope(0) where the rule is strong.

    Differentiation passes through the accepted step, not through the search.
    Source: Hager and Zhang, 2005 (the approximate condition).
    """
    frozen_origin, frozen_direction = jax.lax.stop_gradient((origin, direction))
    slope = trees.dot(frozen_origin.gradient, frozen_direction)
    rounding = 10 * trees.epsilon(origin.params) * jnp.abs(frozen_origin.value)

    def at(step: jax.Array, origin: Point = frozen_origin, direction: PyTree = frozen_direction) -> Point:
        params = trees.axpy(step, direction, origin.params)
        return Point(step, params, *instance.value_and_gradient(params))

    def judge(point: Point) -> tuple[jax.Array, jax.Array]:
        after = trees.dot(point.gradient, frozen_direction)
        armijo = point.value <= frozen_origin.value + rule.sufficient * point.step * slope
        approximate = (after <= (2 * rule.sufficient - 1) * slope) & (point.value <= frozen_origin.value + rounding)
        too_long = ~(armijo | approximate)
        if rule.strong:
            too_long |= after > -rule.curvature * slope
        return too_long, ~too_long & (after < rule.curvature * slope) & (point.step < rule.largest)

    def body(search: Search) -> Search:
        too_long, too_short = judge(search.point)
        upper = jnp.where(too_long, search.point.step, search.upper)
        lower = jnp.where(too_short, search.point.step, search.lower)
        longer = jnp.minimum(4.0 * search.point.step, rule.largest)
        point = at(jnp.where(jnp.isfinite(upper), 0.5 * (lower + upper), longer).astype(search.point.step.dtype))
        too_long, too_short = judge(point)
        return Search(lower, upper, point, search.trials + 1, ~too_long & ~too_short)

    if not instance.searches:
        return Found(at(first, origin, direction), jnp.int32(1), jnp.bool_(True))
    start = jax.lax.stop_gradient(at(jax.lax.stop_gradient(first)))
    too_long, too_short = judge(start)
    infinite = jnp.full_like(start.step, jnp.inf)
    search = Search(jnp.zeros_like(infinite), infinite, start, jnp.int32(1), ~too_long & ~too_short)
    search = jax.lax.while_loop(lambda search: ~search.accepted & (search.trials < rule.most), body, search)
    too_long, _ = judge(search.point)
    accepted = ~too_long & (slope < 0)
    if instance.differentiable:
        accepted_step = followed(search.point.step, first, instance)
        search = search._replace(point=at(accepted_step, origin, direction), trials=search.trials + 1)
    return Found(trees.select(accepted, search.point, origin), search.trials, accepted)
