"""A linear system of the implicit function theorem, prepared for several right-hand sides and cotangents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code, Status
from bilevel.foundation.trees import epsilon, norm
from bilevel.foundation.typing import PyTree
from bilevel.implicit.mapping import System
from bilevel.linear_solve import LinearSolution, LinearSolver, Operator, check_symmetric

ROUNDING = 10  # units of roundoff of a right-hand side that its reduction to the face may be off by


class Solve(NamedTuple):
    """The solution of A x = b or A' u = v, in full and in the reduced variables, and how it was obtained."""

    value: PyTree
    reduced: PyTree  # the start of the next solve
    amplification: jax.Array  # || reduced solution || / || reduced right-hand side ||: no more than || K^{-1} ||
    solution: LinearSolution


class PreparedSystem(NamedTuple):
    """A x = b and A' u = v, with their shared work done once. Neither solve is differentiable itself."""

    operator: Operator  # K
    example: PyTree  # zeros of the shapes of its unknown
    solve: Callable[..., Solve]  # (rhs, tol=None)
    solve_adjoint: Callable[..., Solve]  # (cotangent, init=None, tol=None)
    products: jax.Array | int
    factorizations: jax.Array | int


def prepare_system(system: System, linear_solve: LinearSolver, example: PyTree, both: bool = True) -> PreparedSystem:
    """The system with its linear solver; ``example`` has the shapes of the unknown. With ``both`` false only the
    adjoint is prepared. Raises ValueError where the solver needs what the mapping rules out."""
    operator = asserted(system.operator, linear_solve, example)
    restricted = jax.eval_shape(system.restrict, example)
    reduced_like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), restricted)
    if both:
        forward, backward = linear_solve.prepare_both(operator, reduced_like)
    else:
        forward = backward = linear_solve.prepare(operator.transpose(reduced_like), reduced_like)
    extend_transposed = jax.linear_transpose(lambda rhs, y: system.extend(rhs, y), example, reduced_like)
    restrict_transposed = jax.linear_transpose(system.restrict, example)

    def concluded(value: PyTree, rhs: PyTree, solution: LinearSolution) -> Solve:
        size = norm(rhs)
        amplification = jnp.where(size > 0, norm(solution.value) / jnp.where(size > 0, size, 1), 0)
        counted = solution._replace(products=solution.products + system.products)
        if system.approximate:  # exact for a system that is not the problem's own
            counted = counted._replace(status=counted.status.worse(Status.of(Code.truncated)))
        return Solve(value, solution.value, amplification, counted)

    def faced(reduced: PyTree, given: PyTree, tol: float | jax.Array | None) -> tuple[PyTree, float | jax.Array]:
        stated = linear_solve.stated_tol if tol is None else tol
        return above_rounding(reduced, given, stated) if on_face(operator) else (reduced, stated)

    def solve(rhs: PyTree, tol: float | jax.Array | None = None) -> Solve:
        reduced_rhs, tol = faced(system.restrict(rhs), rhs, tol)
        solution = forward.solve(reduced_rhs, None, tol)
        return concluded(system.extend(rhs, solution.value), reduced_rhs, solution)

    def solve_adjoint(cotangent: PyTree, init: PyTree = None, tol: float | jax.Array | None = None) -> Solve:
        direct, reduced_cotangent = extend_transposed(cotangent)
        reduced_cotangent, tol = faced(reduced_cotangent, cotangent, tol)
        solution = backward.solve(reduced_cotangent, init, tol)
        (through,) = restrict_transposed(solution.value)
        return concluded(jax.tree.map(jnp.add, direct, through), reduced_cotangent, solution)

    shared = (forward,) if forward is backward else (forward, backward)
    return PreparedSystem(
        operator,
        reduced_like,
        solve,
        solve_adjoint,
        sum(prepared.products for prepared in shared),
        sum(prepared.factorizations for prepared in shared),
    )


def on_face(operator: Operator) -> bool:
    """Whether K lives on a face, in the units of the problem. In a saddle or conic system the parts of a right-hand
    side have units of their own, so that nothing small is rounding there."""
    return bool(operator.singular and operator.definite)


def above_rounding(reduced: PyTree, given: PyTree, tol: float | jax.Array) -> tuple[PyTree, jax.Array]:
    """The reduced right-hand side and the tolerance, neither finer than the rounding of ``given``, the full right-hand
    side. The reduction leaves only rounding of a vector off the face. That rounding lies outside of the range of K, so
    the system has no solution for it.
    """
    rounding, size = ROUNDING * epsilon(reduced) * norm(given), norm(reduced)
    reduced = jax.tree.map(lambda leaf: jnp.where(size > rounding, leaf, 0 * leaf), reduced)  # NaN stays
    return reduced, jnp.maximum(tol, rounding / jnp.where(size > rounding, size, 1))


def asserted(operator: Operator, linear_solve: LinearSolver, example: PyTree) -> Operator:
    """Raises ValueError where the mapping rules out a fact that the solver needs. Where the mapping does not know, an
    explicit symmetric solver is the user's assertion: random vectors check it where values are concrete, and the sign
    of the curvature checks it during the solve."""
    linear_solve.refuse(operator)
    if linear_solve.needs_symmetric and operator.symmetric is None:
        check_symmetric(operator, example, jax.random.key(0))
        return replace(operator, symmetric=True)
    return operator
