"""Quadratic programs whose rows, or unknowns, have bounds on both sides; by `bl.quadratic_program`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.compat.jaxopt.common import KKTSolution, OptStep
from bilevel.compat.jaxopt.iteration import IterativeSolver
from bilevel.compat.jaxopt.matrices import (
    INFEASIBLE,
    SOLVED,
    UNBOUNDED,
    UNSOLVED,
    Equalities,
    ProgramState,
    QuadraticSolver,
    flat_rows,
    numbered,
    objective_of,
)
from bilevel.foundation import trees


class BoxSolver(QuadraticSolver, IterativeSolver):
    """A solver of programs with `init_state` and `update`, one of which is the whole solve."""

    def init_state(self, init_params: Any = None, *args: Any, **kwargs: Any) -> ProgramState:
        """The state before the solve, whose error is infinite."""
        return ProgramState(jnp.int32(0), jnp.asarray(jnp.inf), jnp.int32(UNSOLVED), None)

    def update(self, params: Any, state: ProgramState, *args: Any, **kwargs: Any) -> OptStep:
        """The whole solve; ``state`` is replaced."""
        return self.run(params, *args, **kwargs)


@dataclass(eq=False)
class BoxOSQP(BoxSolver):
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
        # Each row is stated from both sides. A side without a bound has an infinite one, which is never active.
        both = jnp.concatenate([A, -A]), jnp.concatenate([upper, -lower])
        found, state = self.solved(program.Q, program.c, (None, None), both)
        mu, phi = jnp.split(found.dual.inequality_dual, 2)
        x = program.unravel(found.params)
        image = rows.unravel(A @ found.params)
        solution = KKTSolution((x, image), rows.unravel(mu - phi), (rows.unravel(mu), rows.unravel(phi)))
        return OptStep(solution, state._replace(status=numbered(found.status)))

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
class BoxCDQP(BoxSolver):
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
