"""The Newton system of an interior-point step, condensed to the unknowns and factored once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

REFINEMENTS = 2  # passes: one may not be enough, because rounding in M can exceed the Hessian
FIRST_SHIFT = 1e-4  # relative to the largest entry of the Hessian; each further shift is SHIFT_GROWTH times larger
HEAVIER = 1e3  # times the weight of E'E where that leaves a negative curvature: off the null space M may have one
SHIFT_GROWTH = 8.0  # large, because each trial is a factorisation; too large a shift only shortens the step
MAX_SHIFTS = 12  # 8^12 times the first one exceeds every curvature


class Condensed(NamedTuple):
    """[[M, E'], [E, 0]] with M positive definite on the null space of E, factored."""

    solve: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]  # (top, bottom) -> (x, y)
    shift: jax.Array  # added to the diagonal of M for that; 0 for a convex problem
    factorizations: jax.Array
    least: jax.Array  # no more than this is the least curvature there, relative to the largest; 0: none is negative


class Parts(NamedTuple):
    """M = hessian + bounds' diag(weights) bounds, beside the rows E of the equalities."""

    hessian: jax.Array  # (n, n)
    bounds: jax.Array  # (m, n)
    weights: jax.Array  # (m,), any positive numbers
    rows: jax.Array  # (p, n)

    def scaled(self, scale: jax.Array) -> Parts:
        """The same in the unknowns x / scale."""
        hessian = scale[:, None] * self.hessian * scale[None, :]
        return Parts(hessian, self.bounds * scale[None, :], self.weights, self.rows * scale[None, :])


def condensed(parts: Parts) -> Condensed:
    """The system by Cholesky factors of M and of its Schur complement, with iterative refinement.

    The weights may span any range. Rounding in the formed M is then far larger than the Hessian; refinement removes the
    error because it applies M by its parts. M may be singular: a multiple of E'E is added, which changes no solution,
    and a shift of the size of rounding, which refinement removes. Where the sum is not positive definite (a nonconvex
    problem), multiples of the identity are added until it is. All unknowns are scaled to one size first, so that no
    shift drowns an unknown with small coefficients. Differentiable in the parts and in the right-hand sides; the
    factors carry no derivative.
    """
    scale = jax.lax.stop_gradient(_unit(parts))
    parts = hessian, bounds, weights, rows = parts.scaled(scale)
    n = hessian.shape[0]
    factors = _factor(jax.lax.stop_gradient(parts))

    def matvec(flat: jax.Array) -> jax.Array:
        x, y = flat[:n], flat[n:]
        top = hessian @ x + factors.shift * x + bounds.T @ (weights * (bounds @ x)) + rows.T @ y
        return jnp.concatenate([top, rows @ x])

    def refined(matvec: Callable, flat: jax.Array) -> jax.Array:
        value = _apply(factors, flat)
        for _ in range(REFINEMENTS):
            value = value + _apply(factors, flat - matvec(value))
        return value

    def solve(top: jax.Array, bottom: jax.Array) -> tuple[jax.Array, jax.Array]:
        rhs = jnp.concatenate([scale * top, bottom])
        # A linear solve to JAX, so that derivatives go through the product and never through the factors.
        flat = jax.lax.custom_linear_solve(matvec, rhs, refined, symmetric=True)
        return scale * flat[:n], flat[n:]

    return Condensed(solve, factors.shift, factors.number, factors.least)


def factored(parts: Parts) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The same for a convex problem (no search for a shift), without derivatives: (top, bottom) -> (x, y)."""
    matrix, weight, _ = _assembled(parts)
    zero = jnp.zeros((), matrix.dtype)
    factors = _factors(jnp.linalg.cholesky(matrix), parts.rows, weight, zero, jnp.int32(1), zero)
    n = matrix.shape[0]

    def solve(top: jax.Array, bottom: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = _apply(factors, jnp.concatenate([top, bottom]))
        return flat[:n], flat[n:]

    return solve


class _Factors(NamedTuple):
    matrix: jax.Array  # of M + weight E'E + shift, by Cholesky
    schur: jax.Array  # of E (M + weight E'E + shift)^{-1} E', by Cholesky
    rows: jax.Array
    weight: jax.Array
    shift: jax.Array
    number: jax.Array
    least: jax.Array


class _Trial(NamedTuple):
    factor: jax.Array
    shift: jax.Array
    number: jax.Array
    weight: jax.Array


def _factor(parts: Parts) -> _Factors:
    matrix, weight, largest = _assembled(parts)

    eye, square = jnp.eye(matrix.shape[0], dtype=matrix.dtype), parts.rows.T @ parts.rows
    has_rows = parts.rows.shape[0] > 0

    def trial(shift: jax.Array, number: jax.Array) -> _Trial:
        heavy = jnp.where(number > 1, HEAVIER, 1) if has_rows else jnp.ones_like(weight)
        lifted = matrix + shift * eye + (heavy - 1) * weight * square
        return _Trial(jnp.linalg.cholesky(lifted), shift, number, heavy * weight)

    def further(last: _Trial) -> _Trial:
        shift = jnp.maximum(SHIFT_GROWTH * last.shift, FIRST_SHIFT * largest)
        if has_rows:
            shift = jnp.where(last.number > 1, shift, 0)
        return trial(shift, last.number + 1)

    found = jax.lax.while_loop(
        lambda last: ~jnp.all(jnp.isfinite(last.factor)) & (last.number < MAX_SHIFTS),
        further,
        trial(jnp.zeros_like(largest), jnp.int32(1)),
    )
    refused = found.shift / SHIFT_GROWTH / largest  # the largest shift with which the matrix was not positive definite
    least = jnp.where(refused >= FIRST_SHIFT, -refused, 0)
    return _factors(found.factor, parts.rows, found.weight, found.shift, found.number, least)


def _assembled(parts: Parts) -> tuple[jax.Array, jax.Array, jax.Array]:
    """M + weight E'E with a shift of the size of rounding, the weight, and the size of its largest entry without the
    bounds."""
    hessian, bounds, weights, rows = parts
    weight = _weight(hessian, rows)
    matrix = hessian + bounds.T @ (weights[:, None] * bounds) + weight * rows.T @ rows
    diagonal = jnp.abs(jnp.diagonal(matrix))
    largest = jnp.max(jnp.abs(hessian + weight * rows.T @ rows), initial=0)
    largest = jnp.where(largest > 0, largest, jnp.where(jnp.max(diagonal) > 0, jnp.max(diagonal), 1))
    return matrix + jnp.diag(_roundoff(matrix) * (diagonal + largest)), weight, largest


def _factors(
    factor: jax.Array, rows: jax.Array, weight: jax.Array, shift: jax.Array, number: jax.Array, least: jax.Array
) -> _Factors:
    schur = jnp.zeros((0, 0), factor.dtype)
    if rows.shape[0]:
        half = jax.scipy.linalg.solve_triangular(factor, rows.T, lower=True)
        schur = half.T @ half
        diagonal = jnp.diagonal(schur)
        lift = jnp.where(diagonal > 0, _roundoff(schur) * diagonal, 1)  # a zero row has a multiplier of its own
        schur = jnp.linalg.cholesky(schur + jnp.diag(lift))
    return _Factors(factor, schur, rows, weight, shift, number, least)


def _unit(parts: Parts) -> jax.Array:
    """A size for each unknown, by the largest of its coefficients: a power of two, so that scaling rounds nothing."""

    def share(sizes: jax.Array) -> jax.Array:
        largest = jnp.max(sizes, initial=0)
        return sizes / jnp.where(largest > 0, largest, 1)

    curvature = share(jnp.sqrt(jnp.abs(jnp.diagonal(parts.hessian))))
    columns = (share(jnp.max(jnp.abs(part), axis=0, initial=0)) for part in (parts.bounds, parts.rows))
    size = jnp.maximum(curvature, jnp.maximum(*columns))
    return jnp.exp2(-jnp.round(jnp.log2(jnp.where((size > 0) & jnp.isfinite(size), size, 1))))


def _roundoff(matrix: jax.Array) -> float:
    return float(jnp.finfo(matrix.dtype).eps) * matrix.shape[0]


def _weight(hessian: jax.Array, rows: jax.Array) -> jax.Array:
    """The weight of E'E beside H that gives the two one size."""
    curvature, largest = jnp.max(jnp.abs(hessian), initial=0), jnp.max(jnp.abs(rows), initial=0)
    return jnp.where(curvature > 0, curvature, 1) / jnp.where(largest > 0, largest, 1) ** 2


def _apply(factors: _Factors, flat: jax.Array) -> jax.Array:
    n = factors.matrix.shape[0]
    top, bottom = flat[:n], flat[n:]
    x = jax.scipy.linalg.cho_solve((factors.matrix, True), top + factors.weight * factors.rows.T @ bottom)
    if bottom.size == 0:
        return x
    y = jax.scipy.linalg.cho_solve((factors.schur, True), factors.rows @ x - bottom)
    return jnp.concatenate([x - jax.scipy.linalg.cho_solve((factors.matrix, True), factors.rows.T @ y), y])
