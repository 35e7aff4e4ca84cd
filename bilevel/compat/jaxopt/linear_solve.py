"""JAXopt's linear solvers on bilevel's.

As ``implicit_diff_solve=`` each stands for the solver of its name. A call of one returns its solution even where the
residual is large. In an ``implicit_diff_solve`` a large residual makes the derivative NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.settings import changed, settings
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import LinearMap, PyTree
from bilevel.linear_solve import (
    CG,
    GMRES,
    AutoLinear,
    BiCGStab,
    Damped,
    Dense,
    LinearSolution,
    LinearSolver,
    Normal,
    Operator,
    as_operator,
)


def solve_cg(matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree = None, **kwargs: Any) -> PyTree:
    """A x = b by conjugate gradients, for a symmetric A."""
    return _solved(named(solve_cg, ridge=ridge, **kwargs), matvec, b, init)


def solve_normal_cg(
    matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree = None, **kwargs: Any
) -> PyTree:
    """A x = b by conjugate gradients on A'A x = A'b, for any A; a rectangular one needs ``init``. With ``ridge`` it is
    (A'A + ridge I) x = A'b."""
    if ridge is None:
        return _solved(named(solve_normal_cg, **kwargs), matvec, b, init)
    normal, right = _ridge_system(matvec, b, init, ridge)
    return _solved(named(solve_cg, **kwargs), normal, right, init)


def solve_gmres(matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree = None, **kwargs: Any) -> PyTree:
    """A x = b by GMRES."""
    return _solved(named(solve_gmres, ridge=ridge, **kwargs), matvec, b, init)


def solve_bicgstab(
    matvec: Callable, b: PyTree, ridge: float | None = None, init: PyTree = None, **kwargs: Any
) -> PyTree:
    """A x = b by BiCGStab."""
    return _solved(named(solve_bicgstab, ridge=ridge, **kwargs), matvec, b, init)


def solve_iterative_refinement(matvec: Callable, b: PyTree, init: PyTree = None, **kwargs: Any) -> PyTree:
    """A x = b, solved again on the true residual until it is small, as every solver of bilevel does."""
    return _solved(named(solve_iterative_refinement, **kwargs), matvec, b, init)


def solve_lu(matvec: Callable, b: PyTree, ridge: float | None = None) -> PyTree:
    """A x = b by a dense factorisation."""
    return _solved(named(solve_lu, ridge=ridge), matvec, b, None)


def solve_inv(matvec: Callable, b: PyTree, ridge: float | None = None) -> PyTree:
    """A x = b by a dense factorisation."""
    return _solved(named(solve_inv, ridge=ridge), matvec, b, None)


def solve_qr(matvec: Callable, b: PyTree, ridge: float | None = None) -> PyTree:
    """A x = b by a dense factorisation."""
    return _solved(named(solve_qr, ridge=ridge), matvec, b, None)


def solve_cholesky(matvec: Callable, b: PyTree, ridge: float | None = None) -> PyTree:
    """A x = b for a symmetric positive definite A, by a dense factorisation."""
    return _solved(named(solve_cholesky, ridge=ridge), matvec, b, None)


_SOLVERS: dict[Callable, LinearSolver] = {
    solve_cg: CG(),
    solve_normal_cg: Normal(),
    solve_gmres: GMRES(),
    solve_bicgstab: BiCGStab(),
    solve_iterative_refinement: AutoLinear(),
    solve_lu: Dense(),
    solve_inv: Dense(),
    solve_qr: Dense(),
    solve_cholesky: Dense(),
}


def named(solve: Callable, ridge: float | None = None, **kwargs: Any) -> LinearSolver:
    """The solver that a function of this module stands for, with JAXopt's keywords."""
    words = {"tol": "tol", "maxiter": "max_steps", "restart": "restart"}
    given = {words[name]: value for name, value in kwargs.items() if name in words and value is not None}
    solver = changed(_SOLVERS[solve], **given)
    if isinstance(solver, Normal) and "max_steps" in given:
        solver = replace(solver, inner=changed(solver.inner, max_steps=given["max_steps"]))
    if ridge is None:
        return solver
    return RidgeNormal(solver.inner, ridge) if isinstance(solver, Normal) else Damped(solver, ridge)


def linear_solver(solve: Callable | LinearSolver | None) -> LinearSolver:
    """The solver that an ``implicit_diff_solve`` or ``solve`` of JAXopt means. None means the automatic choice. A
    function of this module (also in a `functools.partial`) means the solver that it names. Any other function is called
    as solve(matvec, b)."""
    if solve is None:
        return AutoLinear()
    if isinstance(solve, LinearSolver):
        return solve
    if solve in _SOLVERS:
        return named(solve)
    if isinstance(solve, functools.partial) and solve.func in _SOLVERS and not solve.args:
        return named(solve.func, **solve.keywords)
    return Called(solve)


@settings
@dataclass(frozen=True)
class RidgeNormal(LinearSolver):
    """(A'A + ridge I) x = A'b by ``inner``. The residual reported is that of A x = b, and the status ``truncated``."""

    inner: LinearSolver = CG()
    ridge: float | jax.Array = 1e-6

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator = as_operator(operator)
        normal, right = _ridge_system(operator, rhs, init, self.ridge)
        found = self.inner(Operator(normal, True), right, init)
        left, size = trees.norm(trees.subtract(rhs, operator(found.value))), trees.norm(rhs)
        status = Status.of(jnp.where(found.status.ok, Code.truncated, found.status.code))
        return found._replace(residual=left / jnp.where(size > 0, size, 1), status=status)


def _ridge_system(matvec: Callable, b: PyTree, init: PyTree, ridge: Any) -> tuple[LinearMap, PyTree]:
    """The map A'A + ridge I and the right-hand side A'b."""
    b = trees.strong(b)
    transposed = jax.linear_transpose(matvec, b if init is None else trees.strong(init))
    backward = lambda x: transposed(x)[0]
    return lambda x: trees.axpy(ridge, x, backward(matvec(x))), backward(b)


@settings
@dataclass(frozen=True)
class Called(LinearSolver):
    """A x = b by a user's solve(matvec, b). The accuracy that it aims at is not known, so the status is
    ``truncated``."""

    solve: Callable[[LinearMap, PyTree], PyTree]

    def __call__(
        self, operator: Operator | LinearMap, rhs: PyTree, init: PyTree = None, preconditioner: LinearMap | None = None
    ) -> LinearSolution:
        operator = as_operator(operator)
        value = self.solve(operator, rhs)
        left = trees.norm(trees.subtract(rhs, operator(value)))
        size = trees.norm(rhs)
        residual = left / jnp.where(size > 0, size, 1)
        status = Status.of(jnp.where(jnp.isfinite(residual), Code.truncated, Code.nonfinite))
        return LinearSolution(value, residual, jnp.int32(1), status)


def _solved(solver: LinearSolver, matvec: Callable, b: PyTree, init: PyTree) -> PyTree:
    """The solution, with derivatives in b and in all that ``matvec`` closes over."""
    b = trees.strong(b)
    symmetric = True if solver.needs_symmetric else None

    def solve(matvec: LinearMap, rhs: PyTree) -> PyTree:
        return solver(Operator(matvec, symmetric), rhs, init).value

    square = jax.tree.map(jnp.shape, b) == jax.tree.map(jnp.shape, b if init is None else init)
    if not square:
        return solver(Operator(matvec), b, init).value
    return jax.lax.custom_linear_solve(matvec, b, solve, solve, symmetric=bool(symmetric))
