"""min ||A y - b|| with a matrix, by orthogonal factors of A itself: A'A would square its condition."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def triangle(matrix: jax.Array, rhs: jax.Array) -> jax.Array:
    """R of [A, b] = Q R, (min(m, n + 1), n + 1): the same problem in as many rows as unknowns, without Q."""
    return jnp.linalg.qr(jnp.column_stack([matrix, rhs]), mode="r")


def damped(rows: jax.Array, damping: jax.Array) -> jax.Array:
    """The y of least ||A y - b||^2 + damping ||y||^2, damping > 0; ``rows`` are [A, b] or their `triangle`.

    >>> damped(jnp.array([[2.0, 4.0]]), jnp.array(4.0)).tolist()
    [1.0]
    """
    n = rows.shape[1] - 1
    factor = _stacked(rows, damping)
    return jax.scipy.linalg.solve_triangular(factor[:n, :n], factor[:n, n])


def damped_triangle(rows: jax.Array, damping: jax.Array) -> jax.Array:
    """R (n, n) with R'R = A'A + damping I; ``rows`` are [A, b] or their `triangle`."""
    n = rows.shape[1] - 1
    return _stacked(rows, damping)[:n, :n]


def _stacked(rows: jax.Array, damping: jax.Array) -> jax.Array:
    n = rows.shape[1] - 1
    below = jnp.sqrt(damping).astype(rows.dtype) * jnp.eye(n, n + 1, dtype=rows.dtype)
    return jnp.linalg.qr(jnp.concatenate([rows, below]), mode="r")


def minimum_norm(rows: jax.Array) -> jax.Array:
    """The y of least norm among those of least ||A y - b||; ``rows`` are [A, b] or their `triangle`.

    >>> minimum_norm(jnp.array([[1.0, 1.0, 2.0]])).round(6).tolist()
    [1.0, 1.0]
    """
    left, values, right = jnp.linalg.svd(rows[:, :-1], full_matrices=False)
    noise = max(rows.shape) * jnp.finfo(rows.dtype).eps * jnp.max(values)
    inverse = jnp.where(values > noise, 1 / jnp.where(values > noise, values, 1), 0)
    return right.T @ (inverse * (left.T @ rows[:, -1]))
