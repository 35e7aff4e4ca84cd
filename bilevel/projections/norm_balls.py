"""Balls and spheres of the l1 and l2 norm of a whole pytree (the l-infinity ball is elementwise)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.foundation.typing import PyTree
from bilevel.kernels.arrays import as_point, like, norm, unit, valid
from bilevel.projections.simplex import simplex


@compiles_once
def l1_ball(point: PyTree, radius: ArrayLike = 1.0) -> PyTree:
    """The nearest point of {p : ||p||_1 <= radius}; NaN where the radius is negative.

    Reference: Duchi et al., Efficient projections onto the l1-ball for learning in high dimensions, 2008.

    >>> l1_ball(jnp.array([2.0, -1.0, 0.5]), 2.0).tolist()
    [1.5, -0.5, 0.0]
    """
    x, radius, unravel = _flat(point, radius)
    inside = jnp.sum(jnp.abs(x)) <= radius
    return unravel(jnp.where(inside, _within(x, radius), _l1_sphere(x, jnp.where(inside, 1, radius))))


@compiles_once
def l1_sphere(point: PyTree, radius: ArrayLike = 1.0) -> PyTree:
    """A nearest point of {p : ||p||_1 = radius}; a coordinate that is zero counts as positive.

    The set is not convex: points with zero coordinates inside have several nearest points, of which one is taken.

    >>> l1_sphere(jnp.array([0.25, -0.25])).tolist()
    [0.5, -0.5]
    """
    x, radius, unravel = _flat(point, radius)
    return unravel(_l1_sphere(x, radius))


@compiles_once
def l2_ball(point: PyTree, radius: ArrayLike = 1.0) -> PyTree:
    """The nearest point of {p : ||p||_2 <= radius}: x min(1, radius / ||x||); NaN where the radius is negative.

    >>> l2_ball(jnp.array([3.0, 4.0]), 2.5).tolist()
    [1.5, 2.0]
    """
    x, radius, unravel = _flat(point, radius)
    length = norm(x)
    inside = length <= radius
    outside = radius * unit(jnp.where(inside, 1, x))
    return unravel(valid(radius >= 0, jnp.where(inside, _within(x, radius), outside), x, radius))


@compiles_once
def l2_sphere(point: PyTree, radius: ArrayLike = 1.0) -> PyTree:
    """A nearest point of {p : ||p||_2 = radius}: radius x / ||x||.

    At x = 0 every point of the sphere is nearest: the one with equal coordinates is taken, and the derivative with
    respect to x, which does not exist there, is zero.

    >>> l2_sphere(jnp.array([3.0, 4.0]), 2.5).tolist()
    [1.5, 2.0]
    """
    x, radius, unravel = _flat(point, radius)
    length = norm(x)
    direction = jnp.where(length == 0, 1 / max(x.size, 1) ** 0.5, unit(jnp.where(length == 0, 1, x)))
    return unravel(valid(radius >= 0, radius * direction, x, radius))


def _within(x: jax.Array, radius: jax.Array) -> jax.Array:
    """A point of the ball unchanged; a ball of radius zero is one point, with a derivative of zero."""
    return jnp.where(radius > 0, x, 0)


def _flat(point: PyTree, radius: ArrayLike) -> tuple[jax.Array, jax.Array, Callable[[jax.Array], PyTree]]:
    x, unravel = ravel_pytree(jax.tree.map(as_point, point))
    return x, like(radius, x), unravel


def _l1_sphere(x: jax.Array, radius: jax.Array) -> jax.Array:
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    return sign * simplex(sign * x, radius)
