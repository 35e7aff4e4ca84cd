"""How far a point is from the optimality conditions of a program over a cone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.trees import norm


class Products(NamedTuple):
    """The products of the matrices with a point (x, y)."""

    curved: jax.Array  # P x
    forces: jax.Array  # A'y
    pushed: jax.Array  # A x


def relative_residual(
    products: Products,
    q: jax.Array,
    b: jax.Array,
    project: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    y: jax.Array,
) -> jax.Array:
    """The largest of three errors of a point of min 1/2 x'Px + q'x, A x + s = b, s in K, each relative to 1 + the size
    of its terms: stationarity; s - project(s - y) with s = b - A x and ``project`` the projection on K; and the gap
    between the objectives of the program and its dual.

    >>> x, y, q, b = jnp.array([1.0]), jnp.array([2.0]), jnp.array([-3.0]), jnp.array([1.0])
    >>> float(relative_residual(Products(x, y, x), q, b, lambda s: jnp.maximum(s, 0), x, y))  # x^2 / 2 - 3 x, x <= 1
    0.0
    """
    curved, forces, pushed = products
    slack = b - pushed
    stationarity = _relative(curved + q + forces, curved, q, forces)
    feasibility = _relative(slack - project(slack - y), pushed, b)
    terms = jnp.stack([x @ curved, q @ x, b @ y])
    gap = jnp.abs(jnp.sum(terms)) / (1 + jnp.max(jnp.abs(terms)))
    return jnp.maximum(jnp.maximum(stationarity, feasibility), gap).astype(q.dtype)


def _relative(residual: jax.Array, *terms: jax.Array) -> jax.Array:
    sizes = jax.vmap(norm)(
        jnp.stack([residual, *terms])
    )  # all in one loop, because small programs take as long as their loops are many
    return sizes[0] / (1 + jnp.max(sizes[1:]))
