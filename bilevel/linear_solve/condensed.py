"""Direct solves of saddle systems by a factor of the size of their first block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.foundation import vectors as tree
from bilevel.foundation.rescue import rescued
from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap, PyTree, Scalar
from bilevel.linear_solve.base import LinearSolution, LinearSolver, Operator, Prepared, Saddle, as_operator
from bilevel.linear_solve.dense import Dense
from bilevel.linear_solve.refine import attainable, judge, scaled_back

PASSES = 8  # of refinement; three are usual
SETTLED = 0.625  # the last pass of a solve that converged has moved it by less than eps to this power
LEAST = 0.75  # a pivot below eps to this power, as a share of its diagonal entry, is rounding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Condensed(LinearSolver):
    """Solves [[0, C'], [C, -K]] (x, y) = (f, g), K = diag(corner) >= 0, with C of shape (m, n), by one n x n factor.

    A small multiple d of ``shift`` is added to K, so that y can be eliminated: (C' (K + d)^{-1} C) x = f + C' (K +
    d)^{-1} g, by Cholesky. Iterative refinement removes the error of d. Where a pivot is lost, or the passes do not
    settle because rows are nearly dependent or an unknown is hardly held, `Dense` solves the lane. ``init`` and
    ``preconditioner`` are accepted and not used. Raises ValueError where the operator has no such form. Source:
    Friedlander and Orban, A primal-dual regularized interior-point method for convex quadratic programs, 2012.

    >>> saddle = Saddle(jnp.array([[2.0]]), jnp.zeros(1), jnp.ones(1))
    >>> operator = Operator(lambda z: jnp.concatenate(saddle.product(z[:1], z[1:])), symmetric=True, saddle=saddle)
    >>> Condensed()(operator, jnp.array([2.0, 4.0])).value.round(6).tolist()
    [2.0, 1.0]
    """

    tol: float | jax.Array = 1e-10

    direct: ClassVar[bool] = True

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        solution = self.prepare(as_operator(operator), tree.as_vector(rhs)).solve(rhs)
        return solution._replace(factorizations=solution.factorizations + 1)

    def prepare(self, operator: Operator, example: PyTree) -> Prepared:
        """The system with its factor."""
        if operator.saddle is None:
            raise ValueError(f"Condensed factors a saddle, which {operator.owner} does not state. Use bl.Dense().")
        factor = eliminated(lax.stop_gradient(operator.saddle))

        def solve(rhs: jax.Array, init: PyTree = None, tol: Scalar | float | None = None) -> LinearSolution:
            goal = attainable(self.tol if tol is None else tol, rhs)
            rhs, scales = tree.normalized(rhs)
            found = factor.refined(operator, rhs)
            residual = tree.norm(rhs - operator(found.value))
            code = judge(residual, goal, factor.size * tree.norm(found.value), Code.singular, rhs)
            failed = factor.lost | ~found.settled | (code > Code.stalled)
            start = found.value, residual, code.astype(jnp.int32), jnp.int32(0)
            value, residual, code, more = rescued(failed, by_matrix, (goal, factor.saddle, rhs), start)
            return scaled_back(value, scales, residual, found.passes + 1, code, more)

        return Prepared(solve, 0, 1)


class Refined(NamedTuple):
    value: jax.Array
    change: jax.Array  # the norm of what the last pass added
    passes: jax.Array

    @property
    def settled(self) -> jax.Array:
        """Whether the passes converged. In a direction that the matrix maps to almost nothing they would creep on."""
        return self.change <= float(jnp.finfo(self.value.dtype).eps) ** SETTLED * tree.norm(self.value)


class Eliminated(NamedTuple):
    """The factor of a saddle without its second block."""

    saddle: Saddle
    weight: jax.Array  # (m,): the inverse of the last block
    lower: jax.Array  # (n, n): of what is left, by Cholesky
    lost: jax.Array  # whether a pivot was lost to rounding
    size: jax.Array  # no more than this is the norm of the matrix

    def inverse(self, flat: jax.Array) -> jax.Array:
        """(f, g) -> about the solution, as flat arrays."""
        rows, n = self.saddle.rows, len(self.lower)
        top, bottom = flat[:n], flat[n:]
        x = jax.scipy.linalg.cho_solve((self.lower, True), top + (self.weight * bottom) @ rows)
        return jnp.concatenate([x, self.weight * (rows @ x - bottom)])

    def refined(self, matvec: LinearMap, rhs: jax.Array) -> Refined:
        """The solution, as exact as refinement makes it."""
        eps = 4 * float(jnp.finfo(rhs.dtype).eps)

        def proceed(at: Refined) -> jax.Array:
            return (at.change > eps * tree.norm(at.value)) & (at.passes < PASSES)

        def body(at: Refined) -> Refined:
            step = self.inverse(rhs - matvec(at.value))
            return Refined(at.value + step, tree.norm(step), at.passes + 1)

        start = jnp.asarray(jnp.inf, rhs.dtype)
        return lax.while_loop(proceed, body, Refined(jnp.zeros_like(rhs), start, jnp.int32(0)))


def eliminated(saddle: Saddle) -> Eliminated:
    """The saddle, factored."""
    rows, corner, shift = saddle
    eps = float(jnp.finfo(rows.dtype).eps)
    weight = 1 / (corner + eps**0.5 * shift)
    matrix = (rows.T * weight[None, :]) @ rows
    lower = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    diagonal = jnp.diagonal(matrix)
    least = jnp.min(jnp.diagonal(lower) ** 2 / jnp.where(diagonal > 0, diagonal, 1), initial=1)
    size = jnp.maximum(jnp.max(jnp.linalg.norm(rows, axis=1), initial=0), jnp.max(corner, initial=0))
    return Eliminated(saddle, weight, lower, ~(least > eps**LEAST), size)  # NaN compares as false


def is_invertible(saddle: Saddle) -> jax.Array:
    """Whether a saddle is regular beyond doubt: by its `Eliminated` form, else by the pivots of its matrix.

    Two steps of the inverse power method from a random vector find the size of the least eigenvalue up to a small
    factor, and do not settle, or grow beyond bound, where it is zero.
    """
    saddle = lax.stop_gradient(saddle)
    factor, (m, n) = eliminated(saddle), saddle.rows.shape
    probe = jax.random.normal(jax.random.key(0), (n + m,), saddle.rows.dtype)
    matvec = lambda flat: jnp.concatenate(saddle.product(flat[:n], flat[n:]))
    sure, growth = ~factor.lost, jnp.zeros((), probe.dtype)
    for _ in range(2):
        found = factor.refined(matvec, probe / tree.norm(probe))
        probe, growth = found.value, tree.norm(found.value)
        sure &= found.settled
    sure &= growth * factor.size < float(jnp.finfo(probe.dtype).eps) ** -0.5
    return rescued(~sure, lambda saddle: no_pivot_lost(matrix_of(saddle)), (saddle,), jnp.bool_(True))


def no_pivot_lost(matrix: jax.Array) -> jax.Array:
    """Whether no pivot of a matrix is rounding.

    >>> bool(no_pivot_lost(jnp.eye(2))), bool(no_pivot_lost(jnp.ones((2, 2))))
    (True, False)
    """
    pivots = jnp.abs(jnp.diagonal(jax.scipy.linalg.lu_factor(matrix)[0]))
    return jnp.min(pivots, initial=jnp.inf) > jnp.finfo(matrix.dtype).eps ** 0.625 * jnp.max(pivots, initial=0)


def by_matrix(goal: Scalar, saddle: Saddle, rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The system by its matrix: the solution, its residual, its code, and the number of factorisations."""
    matrix = matrix_of(saddle)
    operator = Operator(lambda v: matrix @ v, symmetric=True, definite=False, matrix=matrix)
    found = Dense(tol=goal)(operator, rhs)
    counts = jnp.asarray(found.factorizations, jnp.int32)
    return found.value, found.residual, found.status.code.astype(jnp.int32), counts


def matrix_of(saddle: Saddle) -> jax.Array:
    rows, corner, _ = saddle
    n = rows.shape[1]
    return jnp.block([[jnp.zeros((n, n), rows.dtype), rows.T], [rows, -jnp.diag(corner)]])
