"""Cone programs: the solve, which has no derivative, and the derivative of its solution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from bilevel.cones import Cone
from bilevel.foundation.eager import Setting, compiles_once, solves_once
from bilevel.implicit.attach import attach
from bilevel.implicit.silence import gone
from bilevel.kernels.arrays import after
from bilevel.kernels.matrices import is_sparse
from bilevel.layers.conic_units import conic_units, is_regular
from bilevel.layers.solved import Solved, counts_of, grade_of, improved_at_root, start_of
from bilevel.optimality.conic import Conic, ConicPoint
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, ProgramSolver, program_residual
from bilevel.solvers.programs.verdict import verdict


@solves_once
def solve_conic(data: list, cone: Cone, start: list | None, solver: ProgramSolver) -> Solved:
    A, b, c = frozen = jax.lax.stop_gradient(tuple(data))
    n = c.size
    curvature = BCOO.fromdense(jnp.zeros((n, n), c.dtype), nse=0) if is_sparse(A) else jnp.zeros((n, n), c.dtype)
    program = ConeProgram(curvature, c, A, b, cone)
    begin = None if start is None else start_of(program, *start)
    answer: Answer = jax.lax.stop_gradient(solver.solve_program(program, begin))
    mapping = Conic(cone)
    units = conic_units(A, c, cone, ConicPoint(answer.x, answer.y, answer.s))
    scaled = units.data(*frozen)
    unknown = mapping.pack(*units.inward(answer.x, answer.y, answer.s))

    def measure(z: jax.Array) -> jax.Array:
        at = units.outward(mapping.unpack(z))
        return program_residual(program, at.x, at.y)

    unknown, residual = improved_at_root(mapping, unknown, scaled, measure)
    status, usable = verdict(program, answer, residual, solver.tol)
    regular = is_regular(mapping, unknown, *scaled)
    grade, unknown = grade_of(status, regular), after(unknown, regular)
    nothing = mapping.pack(*map(jnp.zeros_like, (c, b, b)))  # where a cotangent of zero stays zero
    unknown = jnp.where(jnp.isnan(usable), nothing, unknown)
    flat = jnp.zeros((), c.dtype)  # a linear objective has no curvature
    return Solved(unknown, usable, residual, status, grade, answer.steps, counts_of(answer), flat, units)


@compiles_once
def move_conic(data: list, cone: Cone, solved: Solved, solve: Setting) -> tuple[jax.Array, jax.Array]:
    """x and y with their derivatives in the data."""
    A, b, c = data
    mapping, units, lost = Conic(cone), solved.frame, jnp.isnan(solved.usable)
    unknown = attach(mapping, solve.value, solved.unknown, units.data(A, b, c), lost=lost)
    # Numbers where lost, because z is divided by a part of itself; NaN, with its derivative, only after that.
    point = units.outward(mapping.unpack(jnp.where(lost, solved.unknown, unknown)))
    return gone((point.x + (solved.usable - 1), point.y + (solved.usable - 1)), (A, b, c), lost)
