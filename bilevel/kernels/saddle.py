"""The symmetric system of an equality-constrained quadratic program, at any rank of its constraints."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import LinearMap
from bilevel.kernels.rescue import rescued
from bilevel.kernels.triangular import inverse_lower


def solve_saddle(
    hessian: jax.Array, rows: jax.Array, top: jax.Array, bottom: jax.Array, strict: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(x, y) with Q x + C' y = top and C x = bottom, for Q (n, n) symmetric and C (k, n).

    Zero rows (constraints that are switched off) and dependent rows are allowed: x and y have least norm. By Cholesky
    factors of Q and of its Schur complement on the nonzero rows; where these lose digits, by the null space of C. The
    rank is decided on C alone, rows scaled to norm 1, because a nearly dependent row appears squared in the whole
    matrix. Where Q is singular on that null space and no solution exists, x and y solve the least-squares problem, or
    are NaN with ``strict``. Differentiable in all arguments to any order.

    >>> x, y = solve_saddle(jnp.eye(2), jnp.array([[1.0, 1.0]]), jnp.zeros(2), jnp.array([2.0]))
    >>> x.round(6).tolist(), y.round(6).tolist()
    ([1.0, 1.0], [-1.0])
    """
    n = hessian.shape[0]
    frozen = jax.lax.stop_gradient((hessian, rows))
    regular = _regular(*frozen)

    def matvec(flat: jax.Array) -> jax.Array:
        x, y = flat[:n], flat[n:]
        return jnp.concatenate([hessian @ x + rows.T @ y, rows @ x])

    def solve(_: LinearMap, flat: jax.Array) -> jax.Array:
        found = _by_schur(regular, flat)
        return rescued(regular.lost, partial(_by_null_space, strict), (*frozen, flat), found)

    flat = jax.lax.custom_linear_solve(matvec, jnp.concatenate([top, bottom]), solve, symmetric=True)
    return flat[:n], flat[n:]


class _Regular(NamedTuple):
    inverse: jax.Array  # of the Cholesky factor of Q
    half: jax.Array  # inverse C', of rows scaled to norm 1
    schur: jax.Array  # of C Q^{-1} C', by Cholesky, with 1 on the diagonal for zero rows
    size: jax.Array  # of the rows
    lost: jax.Array  # whether a pivot has lost more than a quarter of its digits


def _regular(hessian: jax.Array, rows: jax.Array) -> _Regular:
    size = jnp.linalg.norm(rows, axis=1)
    off = size == 0
    size = jnp.where(off, 1, size)
    factor = jnp.linalg.cholesky(hessian)
    inverse = inverse_lower(factor)
    half = inverse @ (rows / size[:, None]).T
    matrix = half.T @ half
    schur = jnp.linalg.cholesky(matrix + jnp.diag(off.astype(matrix.dtype)))
    least = jnp.finfo(matrix.dtype).eps ** 0.25
    lost = ~(_weakest(factor, hessian) > least) | ~(_weakest(schur, jnp.where(jnp.diag(off), 1, matrix)) > least)
    return _Regular(inverse, half, schur, size, lost)


def _weakest(factor: jax.Array, matrix: jax.Array) -> jax.Array:
    """The smallest pivot relative to its diagonal entry; NaN where there is no factor."""
    diagonal = jnp.diagonal(matrix)
    return jnp.min(jnp.diagonal(factor) ** 2 / jnp.where(diagonal > 0, diagonal, 1), initial=1)


def _by_schur(by: _Regular, flat: jax.Array) -> jax.Array:
    n = by.inverse.shape[0]
    top = by.inverse @ flat[:n]
    y = jax.scipy.linalg.cho_solve((by.schur, True), by.half.T @ top - flat[n:] / by.size)
    x = (top - by.half @ y) @ by.inverse
    return jnp.concatenate([x, y / by.size])


def _by_null_space(strict: bool, hessian: jax.Array, rows: jax.Array, flat: jax.Array) -> jax.Array:
    n = len(hessian)
    found = _apply(_factor(hessian, rows), flat[:n], flat[n:])
    if not strict:
        return found
    curved, forces = hessian @ found[:n], rows.T @ found[n:]
    off = jnp.linalg.norm(curved + forces - flat[:n])
    size = jnp.linalg.norm(flat) + jnp.linalg.norm(curved) + jnp.linalg.norm(forces)
    return jnp.where(off <= jnp.finfo(size.dtype).eps ** 0.5 * size, found, jnp.nan)


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
    pseudo_inverse = (right[: values.size].T * inverse[None, :]) @ left[:, : values.size].T / size[None, :]
    null = 1 - jnp.pad(kept, (0, n - values.size)).astype(rows.dtype)
    rotated = right @ hessian @ right.T
    reduced = _pseudo_inverse(null[:, None] * rotated * null[None, :], jnp.max(jnp.abs(rotated)))
    return _Factors(hessian, pseudo_inverse, right.T @ reduced @ right)


def _pseudo_inverse(symmetric: jax.Array, size: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(symmetric)
    kept = jnp.abs(values) > jnp.finfo(values.dtype).eps * values.size * size
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    return (vectors * inverse[None, :]) @ vectors.T


def _apply(factors: _Factors, top: jax.Array, bottom: jax.Array) -> jax.Array:
    particular = factors.pseudo_inverse @ bottom
    x = particular + factors.reduced_inverse @ (top - factors.hessian @ particular)
    return jnp.concatenate([x, factors.pseudo_inverse.T @ (top - factors.hessian @ x)])
