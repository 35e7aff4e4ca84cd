"""Quadratic programs with JAXopt's arguments, by `bl.quadratic_program`.

Products and functions are made into matrices, and trees into vectors, because an exact solve factorises. ``tol`` and
``maxiter`` are not used: the solution is exact up to rounding, and `state.status` says where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.compat.jaxopt.boxes import BoxOSQP
from bilevel.compat.jaxopt.common import KKTSolution, OptStep
from bilevel.compat.jaxopt.matrices import Program, QuadraticSolver, flat_rows, numbered, objective_of


@dataclass(eq=False)
class EqualityConstrainedQP(QuadraticSolver):
    """min x'Qx/2 + c'x with A x = b: ``run(init, params_obj=(Q, c), params_eq=(A, b))``. By `bl.quadratic_program`."""

    matvec_Q: Callable | None = None
    matvec_A: Callable | None = None
    fun: Callable | None = None
    solve: Callable | None = None
    refine_regularization: float = 0.0
    refine_maxiter: int = 10
    maxiter: int = 1000
    tol: float = 1e-5
    implicit_diff_solve: Callable | None = None
    jit: bool = True

    def run(self, init_params: Any = None, params_obj: Any = None, params_eq: Any = None) -> OptStep:
        start = init_params.primal if isinstance(init_params, KKTSolution) else init_params
        program = objective_of(self.matvec_Q, self.fun, params_obj, start)
        rows = flat_rows(self.matvec_A, params_eq, program)
        found, state = self.solved(program.Q, program.c, rows.rows, (None, None))
        solution = KKTSolution(program.unravel(found.params), rows.unravel(found.dual.equality_dual))
        return OptStep(solution, state)

    def optimality_fun(self, params: Any, params_obj: Any, params_eq: Any) -> Any:
        """Stationarity of the Lagrangian and feasibility."""
        program = objective_of(self.matvec_Q, self.fun, params_obj, params.primal)
        rows = flat_rows(self.matvec_A, params_eq, program)
        return _lagrangian(program, params, rows, None)


@dataclass(eq=False)
class OSQP(QuadraticSolver):
    """min x'Qx/2 + c'x with A x = b and G x <= h; by `bl.quadratic_program`.

    ``run(init, params_obj=(Q, c), params_eq=(A, b), params_ineq=(G, h))``. The other keywords of JAXopt's class belong
    to its iteration and have no counterpart.
    """

    matvec_Q: Callable | None = None
    matvec_A: Callable | None = None
    matvec_G: Callable | None = None
    fun: Callable | None = None
    maxiter: int = 4000
    tol: float = 1e-3
    implicit_diff_solve: Callable | None = None

    def __init__(
        self,
        *,
        matvec_Q: Callable | None = None,
        matvec_A: Callable | None = None,
        matvec_G: Callable | None = None,
        fun: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        self.matvec_Q, self.matvec_A, self.matvec_G, self.fun = matvec_Q, matvec_A, matvec_G, fun
        self.maxiter, self.tol = kwargs.get("maxiter", 4000), kwargs.get("tol", 1e-3)
        self.implicit_diff_solve = kwargs.get("implicit_diff_solve")
        BoxOSQP(**kwargs)  # BoxOSQP refuses a keyword that it does not know

    def init_params(self, init_x: Any, params_obj: Any, params_eq: Any, params_ineq: Any) -> KKTSolution:
        """A start; multipliers are zero."""
        program = objective_of(self.matvec_Q, self.fun, params_obj, init_x)
        rows = [
            None if given is None else flat_rows(matvec, given, program).zeros()
            for matvec, given in ((self.matvec_A, params_eq), (self.matvec_G, params_ineq))
        ]
        return KKTSolution(program.unravel(jnp.zeros_like(program.c)) if init_x is None else init_x, *rows)

    def run(
        self, init_params: Any = None, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> OptStep:
        start = init_params.primal if isinstance(init_params, KKTSolution) else init_params
        program = objective_of(self.matvec_Q, self.fun, params_obj, start)
        equal = flat_rows(self.matvec_A, params_eq, program)
        below = flat_rows(self.matvec_G, params_ineq, program)
        found, state = self.solved(program.Q, program.c, equal.rows, below.rows)
        duals = equal.unravel(found.dual.equality_dual), below.unravel(found.dual.inequality_dual)
        state = state._replace(status=numbered(found.status))
        return OptStep(KKTSolution(program.unravel(found.params), *duals), state)

    def optimality_fun(self, params: Any, params_obj: Any, params_eq: Any = None, params_ineq: Any = None) -> Any:
        """Stationarity, feasibility and complementarity."""
        program = objective_of(self.matvec_Q, self.fun, params_obj, params.primal)
        equal = flat_rows(self.matvec_A, params_eq, program)
        below = flat_rows(self.matvec_G, params_ineq, program)
        return _lagrangian(program, params, equal, below)


@dataclass(eq=False)
class CvxpyQP(OSQP):
    """As `OSQP`, for arrays. bilevel's own solver takes the place of CVXPY, so jit and vmap work."""

    solver: str = "OSQP"
    implicit_diff_solve: Callable | None = None

    def __init__(self, solver: str = "OSQP", implicit_diff_solve: Callable | None = None) -> None:
        if solver not in ("OSQP", "ECOS", "SCS"):
            raise ValueError(f"CvxpyQP got solver={solver!r}: give 'OSQP', 'ECOS' or 'SCS' (all are bilevel's here).")
        super().__init__(implicit_diff_solve=implicit_diff_solve)
        self.solver = solver


def _lagrangian(program: Program, params: KKTSolution, equal: Any, below: Any) -> Any:
    """The natural residual of the KKT conditions, whose terms are flat."""
    x = ravel_pytree(params.primal)[0]
    parts = [program.Q @ x + program.c]
    if equal is not None and equal.rows[0] is not None:
        A, b = equal.rows
        parts = [parts[0] + A.T @ ravel_pytree(params.dual_eq)[0], A @ x - b]
    if below is not None and below.rows[0] is not None:
        (G, h), dual = below.rows, ravel_pytree(params.dual_ineq)[0]
        parts = [parts[0] + G.T @ dual, *parts[1:], dual - jnp.maximum(dual + G @ x - h, 0)]
    return tuple(parts)
