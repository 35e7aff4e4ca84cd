"""Operator splitting on programs that are stated by matrices, dense or sparse."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import cones
from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.kernels.equilibrate_operators import equilibrium, normal_matrix, squares_of, units
from bilevel.kernels.matrices import is_sparse
from bilevel.kernels.residual import Products, relative_residual
from bilevel.kernels.splitting import (
    Point,
    Quadratic,
    adapted,
    advance,
    certificate,
    from_scaled,
    polished,
    scaled,
    sizes,
    to_scaled,
)
from bilevel.solvers.programs.stated_by_arrays import Answer, ConeProgram, groups_of, pieces

FIRST_RHO = 0.1  # OSQP's; adapted after each step
STIFF = 1e3  # the penalty of an equality relative to an inequality
SLACK = 1e-3  # the penalty of a free row
NEAR = 1e-3  # polishing is tried first below this error


class Settings(Protocol):
    """The settings taken from the solver."""

    @property
    def max_steps(self) -> int: ...
    @property
    def tol(self) -> float | jax.Array: ...
    @property
    def iterations(self) -> int: ...
    @property
    def factored(self) -> int: ...
    @property
    def polish(self) -> bool: ...


class _Loop(NamedTuple):
    point: Point  # in scaled coordinates
    error: jax.Array  # of the program as it was stated
    rho: jax.Array
    tried: jax.Array  # polishing is tried next below this error
    steps: jax.Array
    code: jax.Array  # anything but `Code.converged` ends the loop


def split_program(program: ConeProgram, settings: Settings, start: Answer | None) -> Answer:
    """The program by the alternating direction method of multipliers, to a relative error of ``tol``."""
    stated = quadratic(program, settings.factored)
    squares, groups = squares_of(program.P, program.A), groups_of(program.cone)
    scales, measures = equilibrium(stated.q, squares, groups), units(stated.q, squares, groups)
    inner = scaled(stated, scales)
    tol = jnp.maximum(jnp.asarray(settings.tol, stated.q.dtype), 4 * jnp.finfo(stated.q.dtype).eps)

    def error(point: Point) -> jax.Array:
        x, y, _ = from_scaled(point, scales)
        products = Products(stated.hessian(x), stated.transposed(y), stated.rows(x))
        return relative_residual(products, stated.q, stated.b, stated.project, x, y)

    def body(loop: _Loop) -> _Loop:
        point = advance(inner, loop.point, loop.rho, settings.iterations)
        code, proof = certificate(stated, measures, from_scaled(loop.point, scales), from_scaled(point, scales))
        after = error(point)
        near = (after <= loop.tried) & (code == Code.converged) & settings.polish
        better, least = jax.lax.cond(near, partial(polished, inner, error=error), lambda at: (at, after), point)
        rho = adapted(loop.rho, sizes(inner, point))
        better = trees.select(code == Code.converged, better, to_scaled(proof, scales))
        code = jnp.where(jnp.isfinite(after), code, Code.nonfinite).astype(jnp.int32)
        return _Loop(better, least, rho, jnp.where(near, 0.1 * after, loop.tried), loop.steps + 1, code)

    def proceed(loop: _Loop) -> jax.Array:
        return (loop.code == Code.converged) & (loop.error > tol) & (loop.steps < settings.max_steps)

    first = to_scaled(_start(stated, start), scales)
    rho, near = jnp.full_like(scales.cost, FIRST_RHO), jnp.full_like(scales.cost, NEAR)
    loop = jax.lax.while_loop(proceed, body, _Loop(first, error(first), rho, near, jnp.int32(0), jnp.int32(0)))
    short = (loop.code == Code.converged) & ~(loop.error <= tol)
    code = jnp.where(short, Code.max_steps, loop.code).astype(jnp.int32)
    at = from_scaled(loop.point, scales)
    return Answer(at.x, at.y, stated.b - at.z, loop.steps, code)


def quadratic(program: ConeProgram, factored: int) -> Quadratic:
    """The program as functions; with its normal matrix where that is worth a factorisation."""
    P, q, A, b, cone = program[:5]
    sparse = is_sparse(P) or is_sparse(A)
    whole = None if sparse or q.size > factored else normal_matrix(P, A)
    stiffness = np.concatenate([np.zeros(0), *(np.full(part.cone.dim, _stiffness(part.cone)) for part in pieces(cone))])
    return Quadratic(
        hessian=lambda x: P @ x,
        rows=lambda x: A @ x,
        transposed=lambda y: A.T @ y,
        q=q,
        b=b,
        project=cone.project,
        project_dual=cone.project_dual,
        weights=jnp.asarray(stiffness, q.dtype),
        matrix=whole,
    )


def _start(program: Quadratic, start: Answer | None) -> Point:
    """The start: zero, or the solution of a nearby program."""
    if start is None:
        return Point(jnp.zeros_like(program.q), jnp.zeros_like(program.b), program.b - program.project(program.b))
    return Point(start.x, start.y, program.b - program.project(program.b - program.rows(start.x)))


def _stiffness(cone: cones.Cone) -> float:
    return {cones.Zero: STIFF, cones.Free: SLACK}.get(type(cone), 1.0)
