"""Quadratic programs: the solve, which has no derivative, and the derivative of its solution."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.cones import NonNegative, Product, Zero
from bilevel.foundation.eager import Setting, compiles_once, solves_once
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Scalar
from bilevel.implicit.attach import attach
from bilevel.kernels import activity
from bilevel.kernels.matrices import is_sparse, rows_kept, stacked, symmetric_part
from bilevel.kernels.polish import newton_step
from bilevel.kernels.program_derivative import moving
from bilevel.layers.solved import DENSE, Solved, counts_of, grade_of, polished, root_step, start_of
from bilevel.linear_solve import AutoLinear
from bilevel.optimality.kkt import KKT
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, ProgramSolver, program_residual
from bilevel.solvers.programs.verdict import verdict


def _finite_rows(data: list) -> tuple:
    """Q, q, A, b, G, h with zero rows 0 <= 1 for the rows whose bound is infinite."""
    Q, q, A, b, G, h = data
    return Q, q, A, b, rows_kept(G, h != jnp.inf), jnp.where(jnp.isinf(h), 1, h)


def _is_dense(data: list) -> bool:
    Q, q, A, b, G, h = data
    return not any(map(is_sparse, (Q, A, G))) and q.size + b.size + h.size <= DENSE


@solves_once
def solve_quadratic(data: list, start: list | None, solver: ProgramSolver, solve: Setting) -> Solved:
    impossible = jnp.any(data[5] == -jnp.inf)
    Q, q, A, b, G, h = frozen = jax.lax.stop_gradient(_finite_rows(data))
    cone = Product(Zero(b.size), NonNegative(h.size))
    program = ConeProgram(symmetric_part(Q), q, stacked(A, G), jnp.concatenate([b, h]), cone)
    begin = None if start is None else start_of(program, start[0], jnp.concatenate(start[1:]))
    answer: Answer = jax.lax.stop_gradient(solver.solve_program(program, begin))
    unknown = PrimalDual(answer.x, answer.y[: b.size], answer.y[b.size :])

    def correction(at: PrimalDual) -> PrimalDual:
        if _is_dense(data):
            return PrimalDual(*newton_step((program.P, *frozen[1:]), tuple(at)))
        return root_step(QP, at, (*frozen, jnp.ones((), q.dtype)))

    unknown, residual = polished(correction, unknown, lambda at: program_residual(program, *_flat(at)))
    status, usable = verdict(program, answer, residual, solver.tol)
    status = Status.of(jnp.where(impossible & (status.code != Code.nonfinite), Code.infeasible, status.code))
    usable = jnp.where(impossible, jnp.nan, usable)
    unknown = jax.tree.map(lambda leaf: leaf * usable, unknown)
    grade, reading = grade_of(status, jnp.bool_(False)), None
    if _is_dense(data) and solve.value == AutoLinear():
        arrays = (program.P, *frozen[1:])
        reading = jax.lax.stop_gradient(activity.read_program(arrays, tuple(unknown)))
        grade = grade_of(status, activity.is_regular(arrays, reading))
    looked = jnp.full((), 0.0 if _is_dense(data) else jnp.nan, q.dtype)  # `verdict` has looked at Q's eigenvalues
    return Solved(unknown, usable, residual, status, grade, answer.steps, counts_of(answer), looked, reading)


@compiles_once
def move_quadratic(data: list, solved: Solved, solve: Setting) -> PrimalDual:
    """The solution with its derivative in the data."""
    arguments = (*_finite_rows(data), solved.usable)
    if solved.frame is not None:
        return PrimalDual(*moving(tuple(solved.unknown), arguments, solved.frame))
    return attach(QP, solve.value, solved.unknown, arguments)


def _qp_loss(x, Q, q, A, b, G, h, usable) -> Scalar:
    return usable * (0.5 * x @ (Q @ x) + q @ x)  # usable is 1, or NaN, which makes all derivatives NaN


def _qp_equality(x, Q, q, A, b, G, h, usable) -> jax.Array:
    return A @ x - b


def _qp_inequality(x, Q, q, A, b, G, h, usable) -> jax.Array:
    return G @ x - h


QP = KKT(_qp_loss, _qp_equality, _qp_inequality)


def _flat(at: PrimalDual) -> tuple[jax.Array, jax.Array]:
    return at.primal, jnp.concatenate([at.equality_dual, at.inequality_dual])
