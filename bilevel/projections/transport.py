"""The transport polytope {P >= 0 : P 1 = rows, P'1 = columns} in the Euclidean geometry, on the last two axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, like, over_batches, valid
from bilevel.kernels.damped_newton import minimize_convex
from bilevel.projections.simplex import threshold


@compiles_once
def transport(point: ArrayLike, rows: ArrayLike, columns: ArrayLike) -> jax.Array:
    """The nearest matrix of {P : P >= 0, P 1 = rows, P'1 = columns}: max(X - a 1' - 1 b', 0).

    ``point`` is (..., m, n), ``rows`` (..., m), ``columns`` (..., n). NaN where a sum is negative, or where the sums of
    rows and columns differ by more than the square root of the precision. Below that the columns are scaled to the sum
    of the rows, in the derivative too. The potential a is eliminated exactly and b is found by a semismooth Newton
    method. On the support both have a closed form, which is differentiated. Reference: Blondel, Seguy and Rolet, Smooth
    and sparse optimal transport, 2018.

    >>> transport(jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([0.5, 0.5]), jnp.array([0.5, 0.5])).round(5).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    x = as_point(point)
    return _transport(x, like(rows, x), like(columns, x))


@compiles_once
def birkhoff(point: ArrayLike) -> jax.Array:
    """The nearest doubly stochastic matrix, {P : P >= 0, P 1 = 1, P'1 = 1}; the point is (..., n, n).

    >>> birkhoff(jnp.array([[2.0, 0.0], [0.0, 0.0]])).round(5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    x = as_point(point)
    ones = jnp.ones(x.shape[-1:], x.dtype)
    return _transport(x, jnp.ones(x.shape[-2:-1], x.dtype), ones)


def balanced(rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Columns scaled to the sum of the rows, and whether some non-negative matrix has these sums."""
    mass, other = jnp.sum(rows), jnp.sum(columns)
    close = jnp.abs(mass - other) <= jnp.sqrt(jnp.finfo(rows.dtype).eps) * jnp.maximum(mass, other)
    feasible = close & jnp.all(rows >= 0) & jnp.all(columns >= 0)
    return columns * jnp.where(other > 0, mass / jnp.where(other > 0, other, 1), 1), feasible


def _one_transport(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    columns, feasible = balanced(rows, columns)
    if x.shape[0] < x.shape[1]:  # the larger side is eliminated
        return valid(feasible, _plan(x.T, columns, rows).T, x, rows, columns)
    return valid(feasible, _plan(x, rows, columns), x, rows, columns)


def _plan(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    support, found = jax.lax.stop_gradient(_support(x, rows, columns))
    return valid(found, _on_support(x, rows, columns, support), x, rows, columns)


_transport = over_batches(_one_transport, "(m,n),(m),(n)->(m,n)")


def transport_distance(point: ArrayLike, rows: ArrayLike, columns: ArrayLike) -> jax.Array:
    """The distance of each entry of X - a 1' - 1 b' from zero, where the derivative of `transport` jumps. NaN where the
    support is disconnected, as at a vertex, because there a and b are not unique."""
    x = as_point(point)
    return _distance(x, like(rows, x), like(columns, x))


def _one_distance(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    columns, _ = balanced(rows, columns)
    if x.shape[0] < x.shape[1]:
        return _one_distance(x.T, columns, rows).T
    moved, _ = _reduced_point(x, rows, columns)
    values = jnp.linalg.eigvalsh(_reduced((moved > 0).astype(x.dtype))[0])
    tiny = jnp.finfo(x.dtype).eps ** 0.5 * jnp.max(values)
    return jnp.where(jnp.sum(values <= tiny) == 1, jnp.abs(moved), jnp.nan)


_distance = over_batches(_one_distance, "(m,n),(m),(n)->(m,n)")


def _support(x: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the plan is positive, and whether the search for it converged."""
    moved, found = _reduced_point(x, rows, columns)
    return moved > 0, found


def _reduced_point(x: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """X - a 1' - 1 b', whose positive part is the plan, and whether the search for a and b converged."""
    eps = jnp.finfo(x.dtype).eps
    mass = jnp.sum(rows)
    mass = jnp.where(mass > 0, mass, 1)
    x, rows, columns = x / mass, rows / mass, columns / mass

    def plan(b: ArrayLike) -> tuple[jax.Array, jax.Array]:
        moved = x - jnp.asarray(b)[None, :]
        highest = jnp.max(moved, axis=1)  # a is where the row sums to its share, found by sorting
        a = highest + threshold(moved - highest[:, None], rows[:, None])[:, 0]
        return a, moved - a[:, None]

    def evaluate(b: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
        a, moved = plan(b)
        values = jax.nn.relu(moved)
        dual = 0.5 * jnp.sum(values**2) + a @ rows + b @ columns
        return dual, columns - jnp.sum(values, axis=0), _reduced((values > 0).astype(x.dtype))[0]

    found = minimize_convex(evaluate, jnp.zeros_like(columns), jnp.ones_like(columns), 4 * float(eps))
    return mass * plan(found.x)[1], found.error <= jnp.sqrt(eps)


def _reduced(support: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The Hessian of the dual in b once a is eliminated, and the support divided by the number of entries in a row."""
    shares = support / jnp.maximum(jnp.sum(support, axis=1, keepdims=True), 1)
    return jnp.diag(jnp.sum(support, axis=0)) - support.T @ shares, shares


def _on_support(x: jax.Array, rows: jax.Array, columns: jax.Array, support: jax.Array) -> jax.Array:
    """The plan, linear in x, rows and columns as long as its support stays the same."""
    kept = support.astype(x.dtype)
    hessian, shares = _reduced(kept)
    values, vectors = jnp.linalg.eigh(hessian)
    positive = values > jnp.finfo(x.dtype).eps * values.size * jnp.max(values)
    inverse = (vectors * jnp.where(positive, 1 / jnp.where(positive, values, 1), 0)[None, :]) @ vectors.T
    counts = jnp.maximum(jnp.sum(kept, axis=1), 1)
    a = (jnp.sum(kept * x, axis=1) - rows) / counts
    b = inverse @ (jnp.sum(kept * (x - a[:, None]), axis=0) - columns)
    plan = kept * (x - (a - shares @ b)[:, None] - b[None, :])
    return plan + jax.lax.stop_gradient(jnp.maximum(plan, 0) - plan)
