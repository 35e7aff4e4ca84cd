"""The symmetric system of an equality-constrained quadratic program, at any rank of its constraints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.rescue import rescued
from bilevel.foundation.typing import LinearMap
from bilevel.kernels.triangular import inverse_lower


class Schur(NamedTuple):
    """Factors of [[Q, C'], [C, 0]] on the nonzero rows of C: of Q, and of its Schur complement.

    With Q = L L' and C scaled to rows of one size, the complement is half' half for half = L^{-1} C'. Where Q is
    singular but not on the null space of C, the factors are those of Q + C' diag(weight) C, which changes no solution.
    """

    inverse: jax.Array  # (n, n): L^{-1}
    half: jax.Array  # (n, k): L^{-1} C' diag(scale), zero for the rows that are off
    factor: jax.Array  # (k, k): of half' half, by Cholesky, with 1 on the diagonal for the rows that are off
    scale: jax.Array  # (k,) of the rows
    held: jax.Array  # (k,) whether the row is on
    lost: jax.Array  # whether a pivot has lost more than a quarter of its digits
    weight: jax.Array  # (k,), zero where Q itself has been factored

    def solve(self, top: jax.Array, bottom: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(x, y) with Q x + C' y = top and C x = bottom."""
        top = self.inverse @ top + self.half @ (self.weight / self.scale * bottom)
        y = jax.scipy.linalg.cho_solve((self.factor, True), self.half.T @ top - self.scale * bottom)
        return (top - self.half @ y) @ self.inverse, self.scale * y

    @property
    def convex(self) -> jax.Array:
        """Whether the factors prove that Q is positive definite."""
        return ~self.lost & jnp.all(self.weight == 0)

    def quiet(self) -> Schur:
        """The same, with numbers in the place of NaN where the factors are lost, because callers may be under checks
        for NaN."""
        kept = lambda array: jnp.where(self.lost, 0, array)
        factor = jnp.where(self.lost, jnp.eye(len(self.factor), dtype=self.factor.dtype), self.factor)
        return self._replace(inverse=kept(self.inverse), half=kept(self.half), factor=factor)

    def lost_where(self, failed: jax.Array) -> Schur:
        """The same, lost where ``failed`` too."""
        return self._replace(lost=self.lost | failed)

    def in_units(self, columns: jax.Array, rows: jax.Array) -> Schur:
        """The factors of [[D Q D, D C' E], [E C D, 0]] with D = diag(columns) and E = diag(rows)."""
        inverse, weight = self.inverse / columns[None, :], self.weight / rows**2
        return self._replace(inverse=inverse, scale=self.scale / rows, weight=weight)


class Substituted(NamedTuple):
    """Factors of the same matrix where the first k rows of C give the last k unknowns, u = (g - E x) / d, and where Q
    has no entry of theirs but the ``curvature`` on its diagonal: of the program in x alone, whose Hessian is
    Q_x + E' diag(curvature / d^2) E. A step with them costs products with E, so that refinement in all unknowns keeps
    the digits that the sum E'E would lose."""

    inner: Schur
    link: jax.Array  # (k, n - k): E
    factor: jax.Array  # (k,): d
    curvature: jax.Array  # (k,)
    flat: jax.Array  # whether Q_x = 0

    def solve(self, top: jax.Array, bottom: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(x, y) with Q x + C' y = top and C x = bottom."""
        n, k = self.link.shape[1], self.factor.size
        (top, force), (known, bottom) = jnp.split(top, [n]), jnp.split(bottom, [k])
        pull = (force - self.curvature * known / self.factor) / self.factor
        x, y = self.inner.solve(top - pull @ self.link, bottom)
        last = (known - self.link @ x) / self.factor
        first = (force - self.curvature * last) / self.factor
        return jnp.concatenate([x, last]), jnp.concatenate([first, y])

    @property
    def held(self) -> jax.Array:
        return jnp.concatenate([jnp.ones(self.factor.size, bool), self.inner.held])

    @property
    def lost(self) -> jax.Array:
        return self.inner.lost

    @property
    def convex(self) -> jax.Array:
        """Whether Q is seen to be positive semidefinite."""
        return self.flat & jnp.all(self.curvature >= 0)

    def quiet(self) -> Substituted:
        """The same, with numbers in the place of NaN where the factors are lost."""
        return self._replace(inner=self.inner.quiet())

    def lost_where(self, failed: jax.Array) -> Substituted:
        """The same, lost where ``failed`` too."""
        return self._replace(inner=self.inner.lost_where(failed))

    def in_units(self, columns: jax.Array, rows: jax.Array) -> Substituted:
        """The factors of [[D Q D, D C' E], [E C D, 0]] with D = diag(columns) and E = diag(rows)."""
        n, k = self.link.shape[1], self.factor.size
        (free, last), (first, others) = jnp.split(columns, [n]), jnp.split(rows, [k])
        link, factor = first[:, None] * self.link * free, first * self.factor * last
        return Substituted(self.inner.in_units(free, others), link, factor, self.curvature * last**2, self.flat)


Factors = Schur | Substituted


def substitution(
    hessian: jax.Array, rows: jax.Array, explicit: int
) -> tuple[jax.Array, Callable[[Schur], Substituted]]:
    """The Hessian in the first unknowns, where the first ``explicit`` rows give as many last unknowns; and factors of
    that smaller program -> factors of the whole one."""
    n = len(hessian) - explicit
    link, factor = rows[:explicit, :n], jnp.diagonal(rows[:explicit, n:])
    curvature, of_x = jnp.diagonal(hessian)[n:], hessian[:n, :n]
    reduced = of_x + (link.T * (curvature / factor**2)[None, :]) @ link
    flat = jnp.all(of_x == 0)
    return reduced, lambda inner: Substituted(inner, link, factor, curvature, flat)


def factors_of(hessian: jax.Array, rows: jax.Array, explicit: int = 0) -> Factors:
    """`schur_of`, in the first unknowns where the first ``explicit`` rows give as many last ones."""
    if not explicit:
        return schur_of(hessian, rows)
    reduced, whole = substitution(hessian, rows, explicit)
    return whole(schur_of(reduced, rows[explicit:, : len(reduced)]))


def solve_saddle(
    hessian: jax.Array,
    rows: jax.Array,
    top: jax.Array,
    bottom: jax.Array,
    strict: bool = False,
    by: Factors | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(x, y) with Q x + C' y = top and C x = bottom, for Q (n, n) symmetric and C (k, n).

    Zero rows (constraints that are switched off) and dependent rows are allowed: x and y have least norm. By Cholesky
    factors of Q and of its Schur complement on the nonzero rows (``by``, where they are at hand); where these lose
    digits, by the null space of C. The rank is decided on C alone, rows scaled to norm 1, because a nearly dependent
    row appears squared in the whole matrix. Where Q is singular on that null space and no solution exists, x and y
    solve the least-squares problem, or are NaN with ``strict``. Differentiable in all arguments to any order.

    >>> x, y = solve_saddle(jnp.eye(2), jnp.array([[1.0, 1.0]]), jnp.zeros(2), jnp.array([2.0]))
    >>> x.round(6).tolist(), y.round(6).tolist()
    ([1.0, 1.0], [-1.0])
    """
    n = hessian.shape[0]
    frozen = jax.lax.stop_gradient((hessian, rows))
    regular = schur_of(*frozen) if by is None else by

    def matvec(flat: jax.Array) -> jax.Array:
        x, y = flat[:n], flat[n:]
        return jnp.concatenate([hessian @ x + rows.T @ y, rows @ x])

    def solve(_: LinearMap, flat: jax.Array) -> jax.Array:
        found = jnp.concatenate(regular.solve(flat[:n], flat[n:]))
        return rescued(regular.lost, partial(_by_null_space, strict), (*frozen, flat), found)

    flat = jax.lax.custom_linear_solve(matvec, jnp.concatenate([top, bottom]), solve, symmetric=True)
    return flat[:n], flat[n:]


def schur_of(hessian: jax.Array, rows: jax.Array) -> Schur:
    """The factors of a positive definite Q and of rows of which some may be zero.

    >>> x, y = schur_of(jnp.eye(2), jnp.array([[3.0, 0.0]])).solve(jnp.array([5.0, 1.0]), jnp.array([6.0]))
    >>> x.round(6).tolist(), y.round(6).tolist()
    ([2.0, 1.0], [1.0])
    """
    size = jnp.linalg.norm(rows, axis=1)
    held = size != 0
    scale = 1 / jnp.where(held, size, 1)
    factor = jnp.linalg.cholesky(hessian, symmetrize_input=False)
    inverse = inverse_lower(factor)
    half = inverse @ (scale[:, None] * rows).T
    matrix = half.T @ half + jnp.diag((~held).astype(hessian.dtype))
    schur = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    lost = is_lost(factor, hessian) | is_lost(schur, matrix)
    return Schur(inverse, half, schur, scale, held, lost, jnp.zeros_like(scale))


def is_lost(factor: jax.Array, matrix: jax.Array) -> jax.Array:
    """Whether a pivot of a Cholesky factor has lost more than a quarter of its digits, or there is no factor."""
    diagonal = jnp.diagonal(matrix)
    weakest = jnp.min(jnp.diagonal(factor) ** 2 / jnp.where(diagonal > 0, diagonal, 1), initial=1)
    return ~(weakest > jnp.finfo(matrix.dtype).eps ** 0.25)  # NaN compares as false


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
