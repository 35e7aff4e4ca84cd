"""Quadratic programs: the solve, which has no derivative, and the derivative of its solution."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.cones import NonNegative, Product, Zero
from bilevel.foundation.eager import Setting, compiles_once, solves_once
from bilevel.foundation.rescue import rescued
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Scalar
from bilevel.implicit.attach import attach
from bilevel.kernels import activity, polish
from bilevel.kernels.arrays import after
from bilevel.kernels.matrices import is_sparse, rows_kept, stacked, symmetric_part
from bilevel.kernels.program_derivative import moving
from bilevel.layers.solved import Solved, counts_of, grade_of, improved_at_root, start_of
from bilevel.linear_solve import AutoLinear
from bilevel.linear_solve.sparse_lu import pivot_ratio
from bilevel.optimality.kkt import KKT
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.optimality.sparse_program import SparseProgram, held, saddle_of
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, ProgramSolver, program_residual
from bilevel.solvers.programs.verdict import verdict

DENSE = 4096  # unknowns up to which a dense quadratic program is polished and differentiated by dense factors
JUDGED = 1024  # up to so many unknowns and rows dependent active rows are looked for by a factor of them all


def _finite_rows(data: list) -> tuple:
    """Q, q, A, b, G, h with zero rows 0 <= 1 for the rows whose bound is infinite."""
    Q, q, A, b, G, h = data
    return Q, q, A, b, rows_kept(G, h != jnp.inf), jnp.where(jnp.isinf(h), 1, h)


def _is_sparse(data: list) -> bool:
    Q, _, A, _, G, _ = data
    return any(map(is_sparse, (Q, A, G)))


@solves_once
def solve_quadratic(data: list, start: list | None, solver: ProgramSolver, solve: Setting, explicit: Setting) -> Solved:
    impossible = jnp.any(data[5] == -jnp.inf)
    Q, q, A, b, G, h = frozen = jax.lax.stop_gradient(_finite_rows(data))
    cone = Product(Zero(b.size), NonNegative(h.size))
    given = 0 if _is_sparse(data) else explicit.value
    program = ConeProgram(symmetric_part(Q), q, stacked(A, G), jnp.concatenate([b, h]), cone, given)
    begin = None if start is None else start_of(program, start[0], jnp.concatenate(start[1:]))
    answer: Answer = jax.lax.stop_gradient(solver.solve_program(program, begin))
    unknown = PrimalDual(answer.x, answer.y[: b.size], answer.y[b.size :])

    dense = not _is_sparse(data) and q.size <= DENSE
    arrays = (program.P, *frozen[1:])
    settled, convex = None, None
    if dense:
        units = activity.units_of(program.P, program.A)
        settled = jax.lax.stop_gradient(polish.settled(arrays, tuple(unknown), units, answer.factors, given))
        convex = polish.is_convex(after(program.P, settled.at), settled.by)
        settled = after(settled, convex)
        unknown = PrimalDual(*settled.at)
        residual = _measure(program, unknown)
    else:
        ones = jnp.ones((), q.dtype)
        unknown, residual = improved_at_root(SPARSE_QP, unknown, (*frozen, ones), partial(_measure, program))
    status, usable = verdict(program, answer, residual, solver.tol, convex)
    status = Status.of(jnp.where(impossible & (status.code != Code.nonfinite), Code.infeasible, status.code))
    usable = jnp.where(impossible, jnp.nan, usable)
    unknown = jax.tree.map(lambda leaf: leaf * usable, unknown)
    grade, frame, told = grade_of(status, jnp.bool_(False)), None, usable
    if settled is not None and solve.value == AutoLinear():
        frame = settled.reading, settled.by
        grade = grade_of(status, _is_regular(arrays, settled))
        told = jnp.where(settled.reading.told, usable, jnp.nan)  # a guess of the active rows gives no derivative
    if _is_sparse(data) and solve.value == AutoLinear():
        grade, told = _grade_of_sparse(frozen, unknown, status, usable)
    looked = jnp.zeros((), q.dtype)  # `verdict` has checked the eigenvalues
    return Solved(unknown, told, residual, status, grade, answer.steps, counts_of(answer), looked, frame)


def _is_regular(arrays: tuple, settled: polish.Settled) -> jax.Array:
    """Whether the derivative exists for certain: factors that have not lost digits show it, else a factor of it all."""
    _, reading, by = settled
    if arrays[1].size + by.held.size > JUDGED:
        return reading.certain & ~by.lost
    return rescued(reading.certain & by.lost, activity.is_regular, (arrays, reading), reading.certain)


def _grade_of_sparse(
    frozen: tuple, unknown: PrimalDual, status: Status, usable: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The grade, from a factor of the saddle system, and ``usable``, NaN where the active rows are a guess."""
    Q, _, A, _, G, _ = frozen
    reading, off = jax.lax.stop_gradient(held((*frozen, usable), unknown))
    least = float(jnp.finfo(usable.dtype).eps) ** activity.FLOOR
    regular = pivot_ratio(saddle_of(Q, stacked(A, G), off, reading.units)) > least
    return grade_of(status, reading.certain & regular), jnp.where(reading.told, usable, jnp.nan)


@compiles_once
def move_quadratic(data: list, solved: Solved, solve: Setting) -> PrimalDual:
    """The solution with its derivative in the data."""
    arguments = (*_finite_rows(data), solved.usable)
    if solved.frame is not None:
        return PrimalDual(*moving(tuple(solved.unknown), arguments, *solved.frame))
    return attach(SPARSE_QP if _is_sparse(data) else QP, solve.value, solved.unknown, arguments)


def _qp_loss(
    x: jax.Array, Q: Any, q: jax.Array, A: Any, b: jax.Array, G: Any, h: jax.Array, usable: jax.Array
) -> Scalar:
    return usable * (0.5 * x @ (Q @ x) + q @ x)  # usable is 1, or NaN, which makes all derivatives NaN


def _qp_equality(
    x: jax.Array, Q: Any, q: jax.Array, A: Any, b: jax.Array, G: Any, h: jax.Array, usable: jax.Array
) -> jax.Array:
    return A @ x - b


def _qp_inequality(
    x: jax.Array, Q: Any, q: jax.Array, A: Any, b: jax.Array, G: Any, h: jax.Array, usable: jax.Array
) -> jax.Array:
    return G @ x - h


QP = KKT(_qp_loss, _qp_equality, _qp_inequality)
SPARSE_QP = SparseProgram(_qp_loss, _qp_equality, _qp_inequality)


def _measure(program: ConeProgram, at: PrimalDual) -> jax.Array:
    return program_residual(program, at.primal, jnp.concatenate([at.equality_dual, at.inequality_dual]))
