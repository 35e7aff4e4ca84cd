"""Quadratic programs with JAXopt's arguments, by `bl.quadratic_program`.

Products and functions are made into matrices, and trees into vectors, because an exact solve factorises. ``tol`` and
``maxiter`` are not used: the solution is exact up to rounding, and `state.status` says where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.compat.jaxopt.base import KKTSolution, OptStep, Solver
from bilevel.compat.jaxopt.linear_solve import Called, linear_solver
from bilevel.compat.jaxopt.matrices import Equalities, Program, Rows, flat_rows, objective_of
from bilevel.foundation import trees
from bilevel.foundation.status import Code, Status
from bilevel.layers import quadratic_program
from bilevel.linear_solve import AutoLinear
from bilevel.solvers.solution import Solution

SOLVED, INFEASIBLE, UNBOUNDED, UNSOLVED = 1, 3, 2, 0  # BoxOSQP's numbers for its status


class ProgramState(NamedTuple):
    """What is known of a program's solution. ``error`` is bilevel's relative residual."""

    iter_num: jax.Array
    error: jax.Array
    status: Any
    solution: Solution


class QuadraticSolver(Solver):
    """The part that all programs share."""

    def solved(self, Q: Any, c: Any, equalities: Rows, inequalities: Rows) -> tuple[Solution, ProgramState]:
        """The solution of min x'Qx/2 + c'x, A x = b, G x <= h, as flat arrays."""
        asked = linear_solver(self.implicit_diff_solve)
        solve = AutoLinear() if isinstance(asked, Called) else asked
        found = quadratic_program(Q, c, *equalities, *inequalities, linear_solve=solve)
        residual = jax.lax.stop_gradient(found.residual)
        return found, ProgramState(found.steps, residual, found.status, found)


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

    def __init__(self, *, matvec_Q=None, matvec_A=None, matvec_G=None, fun=None, **kwargs):  # type: ignore[no-untyped-def]  # JAXopt's: any keyword of BoxOSQP
        self.matvec_Q, self.matvec_A, self.matvec_G, self.fun = matvec_Q, matvec_A, matvec_G, fun
        self.maxiter, self.tol = kwargs.get("maxiter", 4000), kwargs.get("tol", 1e-3)
        self.implicit_diff_solve = kwargs.get("implicit_diff_solve")
        BoxOSQP(**kwargs)  # which refuses a keyword that it does not know

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
        return OptStep(KKTSolution(program.unravel(found.params), *duals), state)

    def optimality_fun(self, params: Any, params_obj: Any, params_eq: Any = None, params_ineq: Any = None) -> Any:
        """Stationarity, feasibility and complementarity."""
        program = objective_of(self.matvec_Q, self.fun, params_obj, params.primal)
        equal = flat_rows(self.matvec_A, params_eq, program)
        below = flat_rows(self.matvec_G, params_ineq, program)
        return _lagrangian(program, params, equal, below)


@dataclass(eq=False)
class CvxpyQP(OSQP):
    """As `OSQP`, for arrays; bilevel's own solver takes the place of CVXPY, and jit and vmap work."""

    solver: str = "OSQP"
    implicit_diff_solve: Callable | None = None

    def __init__(self, solver: str = "OSQP", implicit_diff_solve: Callable | None = None):
        if solver not in ("OSQP", "ECOS", "SCS"):
            raise ValueError(f"CvxpyQP got solver={solver!r}: give 'OSQP', 'ECOS' or 'SCS' (all are bilevel's here).")
        super().__init__(implicit_diff_solve=implicit_diff_solve)
        self.solver = solver


@dataclass(eq=False)
class BoxOSQP(QuadraticSolver):
    """min x'Qx/2 + c'x with l <= A x <= u; by `bl.quadratic_program`.

    ``run(init, params_obj=(Q, c), params_eq=A, params_ineq=(l, u))`` returns the primal pair (x, A x), the multiplier
    of A x = z, and those of the bounds (mu of u, phi of l).
    """

    matvec_Q: Callable | None = None
    matvec_A: Callable | None = None
    fun: Callable | None = None
    check_primal_dual_infeasability: str | bool = "auto"
    sigma: float = 1e-6
    momentum: float = 1.6
    eq_qp_solve: str = "cg"
    rho_start: float = 0.1
    rho_min: float = 1e-6
    rho_max: float = 1e6
    stepsize_updates_frequency: int = 10
    primal_infeasible_tol: float = 1e-3
    dual_infeasible_tol: float = 1e-3
    maxiter: int = 4000
    tol: float = 1e-3
    termination_check_frequency: int = 5
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    UNSOLVED: ClassVar[int] = UNSOLVED
    SOLVED: ClassVar[int] = SOLVED
    DUAL_INFEASIBLE: ClassVar[int] = UNBOUNDED
    PRIMAL_INFEASIBLE: ClassVar[int] = INFEASIBLE

    def init_params(self, init_x: Any, params_obj: Any, params_eq: Any, params_ineq: Any) -> KKTSolution:
        """A start; multipliers are zero."""
        program = objective_of(self.matvec_Q, self.fun, params_obj, init_x)
        lower, _ = params_ineq
        x = program.unravel(jnp.zeros_like(program.c)) if init_x is None else init_x
        zero = jax.tree.map(jnp.zeros_like, lower)
        image = Equalities(self.matvec_A, params_eq)(x)
        return KKTSolution((x, image), zero, (zero, zero))

    def run(
        self, init_params: Any = None, params_obj: Any = None, params_eq: Any = None, params_ineq: Any = None
    ) -> OptStep:
        start = None if init_params is None else init_params.primal[0]
        program = objective_of(self.matvec_Q, self.fun, params_obj, start)
        rows = flat_rows(self.matvec_A, (params_eq, params_ineq[0]), program)
        A, lower = rows.rows
        upper = ravel_pytree(jax.tree.map(jnp.asarray, params_ineq[1]))[0]
        # Each row is stated from both sides; one without a bound counts for nothing.
        both = jnp.concatenate([A, -A]), jnp.concatenate([upper, -lower])
        found, state = self.solved(program.Q, program.c, (None, None), both)
        mu, phi = jnp.split(found.dual.inequality_dual, 2)
        x = program.unravel(found.params)
        image = rows.unravel(A @ found.params)
        solution = KKTSolution((x, image), rows.unravel(mu - phi), (rows.unravel(mu), rows.unravel(phi)))
        return OptStep(solution, state._replace(status=_numbered(found.status)))

    def l2_optimality_error(self, params: Any, params_obj: Any, params_eq: Any, params_ineq: Any) -> jax.Array:
        """The norm of stationarity, feasibility and complementarity."""
        (x, z), y, (mu, phi) = params
        program = objective_of(self.matvec_Q, self.fun, params_obj, x)
        rows = flat_rows(self.matvec_A, (params_eq, params_ineq[0]), program)
        A, lower = rows.rows
        upper = ravel_pytree(params_ineq[1])[0]
        x, z, y, mu, phi = (ravel_pytree(one)[0] for one in (x, z, y, mu, phi))
        return trees.norm(
            [
                program.Q @ x + program.c + A.T @ y,
                A @ x - z,
                y - mu + phi,
                mu - jnp.maximum(mu + z - upper, 0),
                phi - jnp.maximum(phi + lower - z, 0),
            ]
        )


@dataclass(eq=False)
class BoxCDQP(QuadraticSolver):
    """min x'Qx/2 + c'x with l <= x <= u: ``run(init, params_obj=(Q, c), params_ineq=(l, u))``. By
    `bl.quadratic_program`."""

    maxiter: int = 500
    tol: float = 1e-4
    verbose: bool | int = False
    implicit_diff: bool = True
    implicit_diff_solve: Callable | None = None
    jit: bool = True
    unroll: str | bool = "auto"

    def run(self, init_params: Any = None, params_obj: Any = None, params_ineq: Any = None) -> OptStep:
        Q, c = map(jnp.asarray, params_obj)
        lower, upper = (jnp.broadcast_to(jnp.asarray(bound, c.dtype), c.shape) for bound in params_ineq)
        eye = jnp.eye(c.size, dtype=c.dtype)
        sides = jnp.concatenate([eye, -eye]), jnp.concatenate([upper, -lower])
        found, state = self.solved(Q, c, (None, None), sides)
        return OptStep(found.params, state)

    def optimality_fun(self, sol: Any, params_obj: Any, params_ineq: Any) -> Any:
        """The step of a projected gradient method."""
        Q, c = params_obj
        return jnp.clip(sol - (Q @ sol + c), *params_ineq) - sol


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


def _numbered(status: Status) -> jax.Array:
    """A status as BoxOSQP's number."""
    code = status.code
    number = jnp.where(status.ok, SOLVED, UNSOLVED)
    return jnp.where(code == Code.infeasible, INFEASIBLE, jnp.where(code == Code.unbounded, UNBOUNDED, number))
