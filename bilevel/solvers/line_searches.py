"""Line searches as functions: a step along a direction that decreases a loss enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Params, PyTree, Scalar
from bilevel.optimality import Stationary
from bilevel.penalties import Zero
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import search
from bilevel.solvers.second_order.line_search import (
    CURVATURE,
    MAX_TRIALS,
    SUFFICIENT,
    Point,
    Rule,
    line_search as _bracketed,
)

CONDITIONS = ("armijo", "wolfe", "strong-wolfe")


class LineSearched(NamedTuple):
    """The end of a line search; where it accepted nothing, ``step`` is 0 and ``params`` the start.

    An accepted step decreases the loss enough. It may be too short for a Wolfe condition where the search ended at
    ``largest`` or after ``max_trials``, or lead to a value that is not finite. ``satisfied`` is False then.
    """

    step: jax.Array
    params: Params
    value: Scalar
    gradient: PyTree
    trials: jax.Array  # values and gradients evaluated
    accepted: jax.Array
    satisfied: jax.Array  # the whole condition holds at the step


def line_search(
    loss: Callable[[Params], Scalar],
    params: Params,
    direction: PyTree,
    *,
    first: float | jax.Array = 1.0,
    condition: str = "wolfe",
    sufficient: float = SUFFICIENT,
    curvature: float = CURVATURE,
    largest: float = jnp.inf,
    max_trials: int = MAX_TRIALS,
) -> LineSearched:
    """A step t with loss(params + t direction) <= loss(params) + sufficient t slope(0), slope the derivative along t.

    ``condition`` "armijo" asks for no more, and halves ``first`` until it holds. "wolfe" also asks for slope(t) >=
    curvature slope(0), so that the step is not too short, and "strong-wolfe" for |slope(t)| <= curvature |slope(0)|:
    both bracket such a step, from ``first`` up to ``largest``. Near a minimum, where values are rounding, the decrease
    is read from the slopes. ``params`` is a pytree, and ``loss`` may close over data. Derivatives go through the
    accepted step, not through the search. Raises ValueError for another condition. Source: Nocedal and Wright, 2006,
    section 3.1; Hager and Zhang, 2005 (the decrease read from slopes).

    >>> import jax.numpy as jnp, bilevel as bl
    >>> found = bl.line_search(lambda w: jnp.sum(w**2), jnp.array([1.0, 2.0]), jnp.array([-2.0, -4.0]), first=1.0)
    >>> float(found.step), found.params.tolist(), bool(found.accepted)
    (0.5, [0.0, 0.0], True)
    """
    if condition not in CONDITIONS:
        raise ValueError(f"bl.line_search got condition={condition!r}: give one of {', '.join(CONDITIONS)}.")
    params = trees.differentiable(params, "params")
    stated = lambda w, hparams, batch: loss(w)
    instance = Instance(stated, Zero(), Stationary(stated), None, None)
    value, gradient = instance.value_and_gradient(params)
    start = jnp.minimum(jnp.asarray(first, trees.norm(params).dtype), largest)
    origin = Point(jnp.zeros_like(start), params, value, gradient)
    if condition == "armijo":
        return _halved(instance, origin, direction, start, sufficient, max_trials)
    rule = Rule(sufficient, curvature, condition == "strong-wolfe", largest, max_trials)
    found = _bracketed(instance, origin, direction, start, rule)
    step, point, value, gradient = found.point
    after, before = trees.dot(gradient, direction), trees.dot(origin.gradient, direction)
    bent = jnp.abs(after) <= -curvature * before if rule.strong else after >= curvature * before
    satisfied = found.accepted & bent & jnp.isfinite(value)
    return LineSearched(step, point, value, gradient, found.trials, found.accepted, satisfied)


def _halved(
    instance: Instance, origin: Point, direction: PyTree, first: jax.Array, sufficient: float, most: int
) -> LineSearched:
    slope = trees.dot(origin.gradient, direction)
    rounding = 10 * trees.epsilon(origin.params) * jnp.abs(origin.value)

    def at(step: jax.Array) -> Any:
        params = trees.axpy(step, direction, origin.params)
        return Point(step, params, *instance.value_and_gradient(params))

    def falls(step: jax.Array, point: Point) -> jax.Array:
        after = trees.dot(point.gradient, direction)
        near = (after <= (2 * sufficient - 1) * slope) & (point.value <= origin.value + rounding)
        return (slope < 0) & ((point.value <= origin.value + sufficient * step * slope) | near)

    found = search(instance, at, falls, first, most)
    step, params, value, gradient = trees.select(found.accepted, found.point, origin)
    satisfied = found.accepted & jnp.isfinite(value)
    return LineSearched(step, params, value, gradient, found.trials, found.accepted, satisfied)
