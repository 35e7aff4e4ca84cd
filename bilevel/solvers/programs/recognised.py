"""Quadratic programs that are stated by functions: recognised from the functions, and solved by their matrices."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.cones import NonNegative, Product, Zero
from bilevel.kernels.activity import units_of
from bilevel.kernels.arrays import after
from bilevel.kernels.polish import is_convex, settled
from bilevel.optimality.primal_dual import PrimalDual
from bilevel.solvers.instance import Instance
from bilevel.solvers.programs.stated_by_arrays import (
    ConeProgram,
    ProgramSolver,
    is_pivotable,
    pivoting_program,
    program_residual,
)
from bilevel.solvers.programs.stated_by_functions import Point, Program, program_of

ROUNDING = 100.0  # units of roundoff of the terms of the conditions that count as zero


class Found(NamedTuple):
    """The solution, where the program is convex and has one; ``solved`` says so."""

    at: Point
    solved: jax.Array
    exact: jax.Array  # whether it is solved to rounding: steps by functions would then only lose digits
    steps: jax.Array


def is_quadratic_program(instance: Instance, params: PrimalDual) -> bool:
    """Whether the loss is at most quadratic and all rows are affine, read from the programs of their derivatives;
    ``params`` may be shapes."""
    found: list[bool] = []

    def read(params: PrimalDual) -> tuple:
        program, at = program_of(instance, params)
        degrees = program.degrees(at.primal)
        rows = np.concatenate([degrees.equality, degrees.inequality])
        found.append(degrees.loss <= 2 and bool(np.all(rows == 1)))
        return ()

    jax.eval_shape(read, params)
    return found[0]


def solve_by_matrices(program: Program, x: jax.Array, solver: ProgramSolver) -> Found:
    """The solution by the matrices of the functions, which are read at zero, where nothing cancels."""
    zero = jnp.zeros_like(x)
    curvature, slope, rows = jax.hessian(program.value)(zero), jax.grad(program.value)(zero), program.constraints(zero)
    matrices = jnp.concatenate([rows.equality_rows, rows.inequality_rows])
    bounds = -jnp.concatenate([rows.equality, rows.inequality])
    p = rows.equality.size
    stated = ConeProgram(curvature, slope, matrices, bounds, Product(Zero(p), NonNegative(bounds.size - p)))
    answer = pivoting_program(stated, solver) if is_pivotable(stated) else solver.solve_program(stated)
    data = (curvature, slope, matrices[:p], bounds[:p], matrices[p:], bounds[p:])
    found = settled(data, (answer.x, answer.y[:p], answer.y[p:]), units_of(curvature, matrices), answer.factors)
    convex = is_convex(after(curvature, found.at), found.by)
    found = after(found, convex)
    at = Point(*found.at)
    residual = program_residual(stated, at.primal, jnp.concatenate([at.equality_dual, at.inequality_dual]))
    epsilon = float(jnp.finfo(x.dtype).eps)
    floor = epsilon**0.625
    solved = (residual <= jnp.maximum(solver.tol, floor)) & convex
    return jax.lax.stop_gradient(Found(at, solved, solved & (residual <= ROUNDING * epsilon), answer.steps))
