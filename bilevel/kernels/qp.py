"""Convex quadratic programs: dense, exact to rounding, with derivatives of the primal and of both duals."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code, Status
from bilevel.implicit.silence import silent
from bilevel.kernels.activity import read_program
from bilevel.kernels.arrays import as_point, like
from bilevel.kernels.interior_point import Program, interior_point
from bilevel.kernels.saddle import solve_saddle

POLISHES = 12


class QPSolution(NamedTuple):
    """The minimiser and the multipliers of L = 1/2 x'Qx + q'x + y'(Ax - b) + z'(Gx - h); NaN where there is none."""

    x: jax.Array
    y: jax.Array
    z: jax.Array
    residual: jax.Array  # the largest violation of the optimality conditions, relative to their terms
    steps: jax.Array
    status: Status


def solve_qp(Q, q, A, b, G, h) -> QPSolution:
    """min 1/2 x'Qx + q'x subject to Ax = b and Gx <= h, for a symmetric positive semidefinite Q.

    Shapes: Q (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,); p and m may be zero, and entries of h infinite (no
    constraint). An interior-point method finds the active rows; the equality-constrained program on these rows gives
    the last digits. x, y and z are differentiable in every argument, in both modes and repeatedly. Where constraints
    are dependent or rows are weakly active, the derivative is the one of least norm on the rows where z outweighs h -
    Gx. Of several minimisers one is returned. A failure is a status (infeasible, unbounded or max_steps) and raises
    nothing.

    >>> solution = solve_qp(jnp.eye(2), -jnp.ones(2), jnp.zeros((0, 2)), jnp.zeros(0), jnp.ones((1, 2)), jnp.ones(1))
    >>> solution.x.round(6).tolist(), solution.z.round(6).tolist(), solution.status.name
    ([0.5, 0.5], [0.5], 'converged')
    """
    q = as_point(q)
    Q, A, b, G, h = (like(array, q) for array in (Q, A, b, G, h))
    bounded = h < jnp.inf
    G, h = jnp.where(bounded[:, None], G, 0), jnp.where(bounded, h, 1)
    return _solve(Program(0.5 * (Q + Q.T), q, A, b, G, h))


@jax.custom_jvp
def _solve(program: Program) -> QPSolution:
    scaled, (columns, rows, bounds, cost) = equilibrate(program)
    iterate, steps, code = interior_point(scaled)
    x, y, z = polish(scaled, iterate.x, iterate.y, iterate.z)
    x, y, z = columns * x, rows * y / cost, bounds * z / cost
    residual = relative_residual(program, x, y, z)
    tol = jnp.finfo(residual.dtype).eps ** 0.75
    solved = jnp.where(residual <= tol, Code.converged, jnp.where(residual <= tol**0.5, Code.stalled, Code.max_steps))
    none = (code == Code.infeasible) | (code == Code.unbounded)
    code = jnp.where(none, code, jnp.where(jnp.isfinite(residual), solved, Code.nonfinite))
    x, y, z = (jnp.where(none, jnp.nan, part) for part in (x, y, z))
    return QPSolution(x, y, z, residual, steps, Status.of(code))


@_solve.defjvp
def _solve_jvp(primals, tangents):
    (program,), (moved,) = primals, tangents
    solution = _solve(program)
    x, y, z = solution.x, solution.y, solution.z
    active, (columns, scales), _ = jax.lax.stop_gradient(read_program(program, (x, y, z)))
    mask = scales * jnp.concatenate([jnp.ones_like(y), active.astype(x.dtype)])
    rows = mask[:, None] * jnp.concatenate([program.A, program.G]) * columns[None, :]
    curvature = columns[:, None] * program.Q * columns[None, :]

    def linear(moved: Program) -> tuple[jax.Array, jax.Array, jax.Array]:
        top = -(moved.Q @ x + moved.q + moved.A.T @ y + moved.G.T @ z)
        bottom = mask * jnp.concatenate([moved.b - moved.A @ x, moved.h - moved.G @ x])
        change, duals = solve_saddle(curvature, rows, columns * top, bottom)
        change, duals = columns * change, scales * duals
        return change, duals[: y.size], duals[y.size :]

    still = jax.tree.map(_no_tangent, (solution.residual, solution.steps, solution.status))
    return solution, QPSolution(*silent(linear, moved, ~solution.status.ok), *still)


def _no_tangent(value: jax.Array):
    return (
        jnp.zeros_like(value) if jnp.issubdtype(value.dtype, jnp.inexact) else jnp.zeros(value.shape, jax.dtypes.float0)
    )


def relative_residual(program: Program, x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """The largest of stationarity, feasibility and min(z, h - Gx), each relative to the size of its terms."""
    Q, q, A, b, G, h = program
    terms = (Q @ x, q, A.T @ y, G.T @ z)
    stationarity = _size(Q @ x + q + A.T @ y + G.T @ z) / (1 + jnp.max(jnp.array([_size(term) for term in terms])))
    equality = _size(A @ x - b) / (1 + jnp.maximum(_size(A @ x), _size(b)))
    inequality = _size(jnp.minimum(z, h - G @ x)) / (1 + jnp.maximum(_size(G @ x), _size(h)))
    return jnp.maximum(stationarity, jnp.maximum(equality, inequality))


def equilibrate(program: Program) -> tuple[Program, tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
    """The program with rows and columns of size about 1, and the factors x = columns * x^, y = rows * y^ / cost,
    z = bounds * z^ / cost. Reference: Ruiz, A scaling algorithm to equilibrate both rows and columns norms, 2001."""
    Q, q, A, b, G, h = program

    def sweep(_, scales):
        columns, rows, bounds = scales
        scaled_Q = columns[:, None] * Q * columns[None, :]
        scaled_A, scaled_G = rows[:, None] * A * columns[None, :], bounds[:, None] * G * columns[None, :]
        down = jnp.concatenate([scaled_Q, scaled_A, scaled_G])
        sizes = [jnp.max(jnp.abs(down), axis=0)]
        sizes += [jnp.max(jnp.abs(part), axis=1, initial=0.0) for part in (scaled_A, scaled_G)]
        return tuple(scale / jnp.sqrt(jnp.where(size > 0, size, 1)) for scale, size in zip(scales, sizes, strict=True))

    columns, rows, bounds = jax.lax.fori_loop(0, 10, sweep, tuple(jnp.ones_like(part) for part in (q, b, h)))
    size = jnp.maximum(_size(columns * q), _size(columns[:, None] * Q * columns[None, :]))
    cost = 1 / jnp.where(size > 0, size, 1)
    scaled_Q, scaled_q = cost * columns[:, None] * Q * columns, cost * columns * q
    scaled_A, scaled_G = rows[:, None] * A * columns[None, :], bounds[:, None] * G * columns[None, :]
    return Program(scaled_Q, scaled_q, scaled_A, rows * b, scaled_G, bounds * h), (columns, rows, bounds, cost)


class _Polished(NamedTuple):
    point: tuple[jax.Array, jax.Array, jax.Array]
    best: tuple[jax.Array, jax.Array, jax.Array]
    residual: jax.Array  # of the best
    fruitless: jax.Array
    steps: jax.Array


def polish(program: Program, x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Newton steps on the rows with z > h - Gx, which are read again after each step; the best point is returned."""

    def step(state: _Polished) -> _Polished:
        point = _newton(program, *state.point)
        residual = relative_residual(program, *point)
        better = residual < state.residual
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), point, state.best)
        fruitless = jnp.where(better, 0, state.fruitless + 1)
        return _Polished(point, best, jnp.where(better, residual, state.residual), fruitless, state.steps + 1)

    def proceed(state: _Polished) -> jax.Array:
        enough = state.residual <= jnp.finfo(x.dtype).eps
        return ~enough & (state.fruitless < 3) & (state.steps < POLISHES)

    zero = jnp.zeros((), jnp.int32)
    start = _Polished((x, y, z), (x, y, z), relative_residual(program, x, y, z), zero, zero)
    return jax.lax.while_loop(proceed, step, start).best


def _newton(program: Program, x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    Q, q, A, b, G, h = program
    active = (z > h - G @ x).astype(x.dtype)
    z = active * z
    top = -(Q @ x + q + A.T @ y + G.T @ z)
    bottom = jnp.concatenate([b - A @ x, active * (h - G @ x)])
    change, duals = solve_saddle(Q, jnp.concatenate([A, active[:, None] * G]), top, bottom)
    return x + change, y + duals[: y.size], z + duals[y.size :]


def _size(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0.0)
