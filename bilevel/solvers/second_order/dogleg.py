"""Powell's dogleg for least squares."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.solvers.base import settings
from bilevel.solvers.second_order.gauss_newton import whole_step
from bilevel.solvers.second_order.least_squares import LeastSquaresSolver
from bilevel.solvers.second_order.squares_model import Aim, Control, Model, resized


@settings
@dataclass(frozen=True)
class Dogleg(LeastSquaresSolver):
    """w <- w + d with d on the path from 0 by the minimiser along the gradient to Gauss and Newton's step, as far as a
    ball of the radius in which the model is trusted.

    One solve for all radii, where `bl.LevenbergMarquardt` solves for each damping. The radius, in the lengths of J's
    columns, follows the decrease over the predicted one. Up to ``dense`` unknowns by orthogonal factors of J, beyond by
    LSMR; in a box steps are projected. Source: Powell, 1970.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.LeastSquares(lambda w, h, batch: jnp.array([10 * (w[1] - w[0] ** 2), h - w[0]]))
    >>> inner = bl.InnerProblem(loss, lambda key, h: jnp.array([-1.2, 1.0]), solver=bl.Dogleg(tol=1e-5))
    >>> inner.solve(1.0, None).params.round(3).tolist()
    [1.0, 1.0]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-10
    dense: int = 512

    def first(self, like: jax.Array) -> Control:
        return Control(jnp.full_like(like, jnp.inf), jnp.ones_like(like))

    def plan(self, model: Model, tol: jax.Array) -> tuple[Aim, jax.Array | int]:
        whole, products = whole_step(model, tol)
        image, length = model.push(model.slope), trees.norm(model.slope)
        curvature = image @ image
        steepest = -(length**2 / jnp.where(curvature > 0, curvature, 1)) * model.slope
        return lambda control: (bent(steepest, whole, control.size), 0), products

    def adapt(self, control: Control, ratio: jax.Array, accepted: jax.Array, length: jax.Array) -> Control:
        return resized(control, ratio, accepted, length)


def bent(first: jax.Array, last: jax.Array, radius: jax.Array) -> jax.Array:
    """The point at distance ``radius`` from 0 on the path 0 - first - last, or its end.

    >>> bent(jnp.array([1.0, 0.0]), jnp.array([1.0, 2.0]), jnp.array(0.5)).tolist()
    [0.5, 0.0]
    """
    size, side = trees.norm(first), last - first
    bounded = jnp.where(jnp.isinf(radius), 1, radius)
    # |first + t side| = radius, solved in the form without a difference of large numbers.
    a, b, c = side @ side, first @ side, jnp.maximum(bounded**2 - size**2, 0)
    root = b + jnp.sqrt(b**2 + a * c)
    share = jnp.clip(c / jnp.where(root > 0, root, 1), 0, 1)
    within = first + share * side
    short = first * bounded / jnp.where(size > 0, size, 1)
    step = jnp.where(size >= bounded, short, within)
    return jnp.where(jnp.isinf(radius) | (trees.norm(last) <= bounded), last, step)
