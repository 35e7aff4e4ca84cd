"""The symmetric system of an equality-constrained quadratic program, at any rank of its constraints."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


def solve_saddle(hessian: jax.Array, rows: jax.Array, top: jax.Array, bottom: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x, y) with Q x + C' y = top and C x = bottom, for Q (n, n) symmetric and C (k, n).

    By the null space of C, whose rank is decided on C alone (rows scaled to norm 1), not on the whole matrix, in which
    a nearly dependent row appears squared. Zero rows (constraints that are switched off) and dependent rows are
    allowed: x and y of least norm. Differentiable in all arguments to any order.

    >>> x, y = solve_saddle(jnp.eye(2), jnp.array([[1.0, 1.0]]), jnp.zeros(2), jnp.array([2.0]))
    >>> x.round(6).tolist(), y.round(6).tolist()
    ([1.0, 1.0], [-1.0])
    """
    n = hessian.shape[0]
    factors = _factor(*jax.lax.stop_gradient((hessian, rows)))

    def matvec(flat: jax.Array) -> jax.Array:
        x, y = flat[:n], flat[n:]
        return jnp.concatenate([hessian @ x + rows.T @ y, rows @ x])

    def solve(_, flat: jax.Array) -> jax.Array:
        return _apply(factors, flat[:n], flat[n:])

    flat = jax.lax.custom_linear_solve(matvec, jnp.concatenate([top, bottom]), solve, symmetric=True)
    return flat[:n], flat[n:]


class _Factors(NamedTuple):
    hessian: jax.Array
    pseudo_inverse: jax.Array  # of the rows: n x k
    reduced_inverse: jax.Array  # Z (Z' Q Z)^+ Z', Z a basis of the null space of the rows


def _factor(hessian: jax.Array, rows: jax.Array) -> _Factors:
    n, (count, _) = hessian.shape[0], rows.shape
    eps = jnp.finfo(hessian.dtype).eps
    if count == 0:
        return _Factors(hessian, jnp.zeros((n, 0), hessian.dtype), _pseudo_inverse(hessian, jnp.max(jnp.abs(hessian))))
    size = jnp.linalg.norm(rows, axis=1)
    size = jnp.where(size > 0, size, 1)
    left, values, right = jnp.linalg.svd(rows / size[:, None], full_matrices=True)
    kept = values > eps * max(n, count) * jnp.max(values)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    pseudo_inverse = (right[: values.size].T * inverse) @ left[:, : values.size].T / size
    null = 1 - jnp.pad(kept, (0, n - values.size)).astype(rows.dtype)
    rotated = right @ hessian @ right.T
    reduced = _pseudo_inverse(null[:, None] * rotated * null, jnp.max(jnp.abs(rotated)))
    return _Factors(hessian, pseudo_inverse, right.T @ reduced @ right)


def _pseudo_inverse(symmetric: jax.Array, size: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(symmetric)
    kept = jnp.abs(values) > jnp.finfo(values.dtype).eps * values.size * size
    return (vectors * jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)) @ vectors.T


def _apply(factors: _Factors, top: jax.Array, bottom: jax.Array) -> jax.Array:
    particular = factors.pseudo_inverse @ bottom
    x = particular + factors.reduced_inverse @ (top - factors.hessian @ particular)
    return jnp.concatenate([x, factors.pseudo_inverse.T @ (top - factors.hessian @ x)])
