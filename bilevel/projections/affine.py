"""Hyperplanes and half-spaces of pytrees; affine sets and polyhedra along the last axis."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.foundation.typing import PyTree
from bilevel.kernels.arrays import as_point, known, like, map_leaves, over_batches, valid
from bilevel.kernels.qp import solve_qp
from bilevel.kernels.saddle import solve_saddle


@compiles_once
def hyperplane(point: PyTree, normal: PyTree, offset: ArrayLike) -> PyTree:
    """The nearest point of {p : <normal, p> = offset}, over all coordinates of a pytree.

    ``normal`` is like the point. NaN for a zero normal with an offset that is not zero: no point is feasible.

    >>> hyperplane(jnp.array([1.0, 1.0]), jnp.array([1.0, 1.0]), 1.0).tolist()
    [0.5, 0.5]
    """
    x, normal, offset, unravel = _flat(point, normal, offset)
    return unravel(_along(x, normal, offset, lambda excess: excess))


@compiles_once
def halfspace(point: PyTree, normal: PyTree, offset: ArrayLike) -> PyTree:
    """The nearest point of {p : <normal, p> <= offset}, over all coordinates of a pytree.

    ``normal`` is like the point. NaN for a zero normal with a negative offset: no point is feasible.

    >>> halfspace(jnp.array([1.0, 1.0]), jnp.array([1.0, 1.0]), 3.0).tolist()
    [1.0, 1.0]
    """
    x, normal, offset, unravel = _flat(point, normal, offset)
    return unravel(_along(x, normal, offset, jax.nn.relu))


@compiles_once
def affine_set(point: ArrayLike, A: ArrayLike, b: ArrayLike) -> jax.Array:
    """The nearest point of {p : A p = b}: x - A'y with A A'y = A x - b.

    ``point`` is (..., n), A (k, n), b (..., k); rows may be dependent. NaN where they contradict each other by more
    than the square root of the precision.

    >>> affine_set(jnp.array([1.0, 1.0]), jnp.array([[1.0, 1.0]]), jnp.array([1.0])).round(6).tolist()
    [0.5, 0.5]
    """
    x = as_point(point)
    return _affine_set(x, like(A, x), like(b, x))


@compiles_once
def polyhedron(point: ArrayLike, A: ArrayLike, b: ArrayLike, G: ArrayLike, h: ArrayLike) -> jax.Array:
    """The nearest point of {p : A p = b, G p <= h}; NaN where no point is feasible.

    ``point`` is (..., n), A (k, n), b (..., k), G (m, n), h (..., m); k and m may be zero. Exact to rounding, by an
    interior-point method and the active rows that it finds (see ``bilevel.kernels.qp``).

    >>> square = jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    >>> polyhedron(jnp.array([2.0, 0.5]), jnp.zeros((0, 2)), jnp.zeros(0), square, jnp.ones(4)).round(6).tolist()
    [1.0, 0.5]
    """
    x = as_point(point)
    return _polyhedron(x, *(like(array, x) for array in (A, b, G, h)))


def _flat(
    point: PyTree, normal: PyTree, offset: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, Callable[[jax.Array], PyTree]]:
    x, unravel = ravel_pytree(jax.tree.map(as_point, point))
    normal, _ = ravel_pytree(map_leaves(lambda leaf, a: jnp.broadcast_to(a, leaf.shape), point, normal))
    return x, like(normal, x), like(offset, x), unravel


def _along(x: jax.Array, normal: jax.Array, offset: jax.Array, beyond: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """x moved along the normal, until the part of <normal, x> - offset that ``beyond`` returns is gone. A second move
    removes the rounding of the first, which has the size of x."""
    square = normal @ normal
    excess = beyond(normal @ x - offset)
    possible = (square > 0) | (excess == 0)
    inverse = 1 / jnp.where(square > 0, square, 1)
    projected = x - excess * inverse * normal
    rounding = jnp.where(excess == 0, 0, normal @ projected - offset)
    return valid(possible, projected - jax.lax.stop_gradient(rounding * inverse * normal), x, normal)


def _one_affine_set(x: jax.Array, A: jax.Array, b: jax.Array) -> jax.Array:
    identity = jnp.eye(x.size, dtype=x.dtype)
    projected, _ = solve_saddle(identity, A, x, b)
    again, _ = solve_saddle(identity, A, projected, b)  # because the first leaves rounding of the size of x
    projected += jax.lax.stop_gradient(again - projected)
    size = jnp.abs(A) @ jnp.abs(projected) + jnp.abs(b)
    consistent = jnp.all(jnp.abs(A @ projected - b) <= jnp.sqrt(jnp.finfo(x.dtype).eps) * size)
    return valid(consistent, projected, x, A, b)


def _one_polyhedron(x: jax.Array, A: jax.Array, b: jax.Array, G: jax.Array, h: jax.Array) -> jax.Array:
    solution = solve_qp(jnp.eye(x.size, dtype=x.dtype), -x, A, b, G, h)
    return valid(solution.status.ok & known(x, A, b, G, h), solution.x, x, A, b, G, h)


_affine_set = over_batches(_one_affine_set, "(n),(k,n),(k)->(n)")
_polyhedron = over_batches(_one_polyhedron, "(n),(k,n),(k),(m,n),(m)->(n)")
