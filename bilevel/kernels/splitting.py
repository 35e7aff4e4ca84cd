"""Operator splitting for quadratic programs over a cone, known by products only.

    min 1/2 x'Px + q'x   s.t.   A x + s = b, s in K,       y in K* the multipliers;       z = b - s below

The alternating direction method of multipliers with over-relaxation: per iteration one solve with P + sigma I + A'RA
(R = rho diag(weights)), two products and one projection. Sources: Stellato et al., OSQP: an operator splitting solver
for quadratic programs, 2020; O'Donoghue et al., 2016; Garstka, Cannon and Goulart, COSMO, 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import jax.scipy.sparse.linalg

from bilevel.foundation.status import Code
from bilevel.foundation.typing import LinearMap
from bilevel.kernels.certificate import no_minimum, no_point
from bilevel.kernels.polish import improved
from bilevel.linear_solve import AutoLinear
from bilevel.linear_solve.base import Operator

RELAXATION = 1.6  # OSQP's; values from 1.5 to 1.8 save iterations
SIGMA = 1e-6  # OSQP's; makes the system definite where P is singular
RHO = (1e-6, 1e6)  # the least and the largest
CHANGE = 2.0  # rho is changed when it is off by more than this factor
INEXACT = 0.05  # the share of the first residual that conjugate gradients leave
INNER = 50  # their most iterations
POLISHES = 3  # Newton steps, which double the digits: three take 1e-3 to rounding


class Quadratic(NamedTuple):
    """A program, as functions; ``weights`` are the penalties of the rows relative to each other."""

    hessian: LinearMap  # x -> P x
    rows: LinearMap  # x -> A x
    transposed: LinearMap  # y -> A'y
    q: jax.Array
    b: jax.Array
    project: Callable[[jax.Array], jax.Array]  # on K
    project_dual: Callable[[jax.Array], jax.Array]  # on K*
    weights: jax.Array
    matrix: Callable[[jax.Array], jax.Array] | None = None  # w -> P + A' diag(w) A; None: conjugate gradients instead


class Scales(NamedTuple):
    """x = columns * x^, y = rows * y^ / cost, s = s^ / rows; ``rows`` is constant on each cone."""

    columns: jax.Array
    rows: jax.Array
    cost: jax.Array


class Units(NamedTuple):
    """The scales that bring rows and columns of A to size 1, and the lengths of the columns of P in them."""

    columns: jax.Array
    rows: jax.Array
    curvatures: jax.Array


class Point(NamedTuple):
    """An iterate."""

    x: jax.Array
    y: jax.Array
    z: jax.Array


class Sizes(NamedTuple):
    """The residuals of an iterate, and the sizes of the terms that they are compared with."""

    primal: jax.Array
    dual: jax.Array
    primal_terms: jax.Array
    dual_terms: jax.Array


def scaled(program: Quadratic, scales: Scales) -> Quadratic:
    """The program in x^, y^, s^."""
    columns, rows, cost = scales
    whole = program.matrix

    def matrix(weights: jax.Array) -> jax.Array:
        assert whole is not None
        return columns[:, None] * whole(weights * rows**2 / cost) * (cost * columns)[None, :]

    return program._replace(
        hessian=lambda x: cost * columns * program.hessian(columns * x),
        rows=lambda x: rows * program.rows(columns * x),
        transposed=lambda y: columns * program.transposed(rows * y),
        q=cost * columns * program.q,
        b=rows * program.b,
        matrix=whole if whole is None else matrix,
    )


def to_scaled(point: Point, scales: Scales) -> Point:
    return Point(point.x / scales.columns, scales.cost * point.y / scales.rows, scales.rows * point.z)


def from_scaled(point: Point, scales: Scales) -> Point:
    return Point(scales.columns * point.x, scales.rows * point.y / scales.cost, point.z / scales.rows)


def advance(program: Quadratic, point: Point, rho: jax.Array, iterations: int) -> Point:
    """Some iterations at a fixed rho."""
    penalty = rho * program.weights
    solve = _inner_solver(program, penalty)

    def one(_: jax.Array, at: Point) -> Point:
        x, y, z = at
        solved = solve(SIGMA * x - program.q + program.transposed(penalty * z - y), x)
        relaxed = RELAXATION * program.rows(solved) + (1 - RELAXATION) * z
        slack = program.project(program.b - relaxed - y / penalty)
        z = program.b - slack
        return Point(RELAXATION * solved + (1 - RELAXATION) * x, y + penalty * (relaxed - z), z)

    return jax.lax.fori_loop(0, iterations, one, point)


def _inner_solver(program: Quadratic, penalty: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(right-hand side, guess) -> the solution: by a Cholesky factor, or by conjugate gradients from the guess, which
    reduce its residual by a fixed share."""
    if program.matrix is not None:
        matrix = program.matrix(penalty)
        factor = jnp.linalg.cholesky(matrix + SIGMA * jnp.eye(matrix.shape[0], dtype=matrix.dtype))
        return lambda rhs, guess: jax.scipy.linalg.cho_solve((factor, True), rhs)

    def matvec(x: jax.Array) -> jax.Array:
        return program.hessian(x) + SIGMA * x + program.transposed(penalty * program.rows(x))

    def solve(rhs: jax.Array, guess: jax.Array) -> jax.Array:
        allowed = INEXACT * jnp.linalg.norm(rhs - matvec(guess))
        return jax.scipy.sparse.linalg.cg(matvec, rhs, x0=guess, tol=0.0, atol=allowed, maxiter=INNER)[0]

    return solve


def sizes(program: Quadratic, point: Point) -> Sizes:
    x, y, z = point
    curved, forces, pushed = program.hessian(x), program.transposed(y), program.rows(x)
    return Sizes(
        _largest(pushed - z),
        _largest(curved + program.q + forces),
        jnp.maximum(_largest(pushed), _largest(z)),
        jnp.maximum(_largest(curved), jnp.maximum(_largest(program.q), _largest(forces))),
    )


def adapted(rho: jax.Array, found: Sizes) -> jax.Array:
    """The rho that would make both residuals equal in relative size, if it is off by more than a factor; else the
    present rho."""
    tiny = jnp.finfo(rho.dtype).tiny ** 0.5
    primal, dual = (
        residual / jnp.maximum(terms, tiny) + tiny
        for residual, terms in ((found.primal, found.primal_terms), (found.dual, found.dual_terms))
    )
    new = jnp.clip(rho * jnp.sqrt(primal / dual), *RHO)
    off = (new > CHANGE * rho) | (new < rho / CHANGE)
    return jnp.where(off & jnp.isfinite(new), new, rho)


def certificate(program: Quadratic, units: Units, before: Point, after: Point) -> tuple[jax.Array, Point]:
    """`Code.infeasible`, `Code.unbounded` or `Code.converged` (neither is proved), and the iterate with the proof in
    place of y or x. The proof is the direction in which the iterates of the program as stated diverge.

    Source: Banjac et al., Infeasibility detection in the alternating direction method of multipliers, 2019.
    """
    x, y = after.x - before.x, after.y - before.y
    infeasible, unbounded = proofs(program, units, x, y)
    code = jnp.where(unbounded & _moving(x, after.x), Code.unbounded, Code.converged)
    code = jnp.where(infeasible & _moving(y, after.y), Code.infeasible, code).astype(jnp.int32)
    proof = Point(
        jnp.where(code == Code.unbounded, x, after.x), jnp.where(code == Code.infeasible, y, after.y), after.z
    )
    return code, proof


def proofs(program: Quadratic, units: Units, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether y proves that no point is feasible, and x that the loss falls without end; see `kernels.certificate`."""
    close = float(jnp.finfo(x.dtype).eps) ** 0.5
    columns, rows, curvatures = units
    # the distance of -A x from K is the part of A x in K* (Moreau), so one projection is compiled for both
    y, off = jax.vmap(program.project_dual)(jnp.stack([y, program.rows(x)]))
    infeasible = no_point(rows * program.b, y / rows, columns * program.transposed(y), close)
    left = rows * off
    curved = columns * program.hessian(x)
    return infeasible, no_minimum(columns * program.q, x / columns, curved, left, curvatures, close)


def _moving(change: jax.Array, at: jax.Array) -> jax.Array:
    """Whether an iterate keeps moving."""
    return _largest(change) > float(jnp.finfo(at.dtype).eps) ** 0.5 * _largest(at)


def polished(program: Quadratic, point: Point, error: Callable[[Point], jax.Array]) -> tuple[Point, jax.Array]:
    """Newton steps on the optimality conditions as long as they lower ``error``, which is returned with the point.

    With v = y - s, y = proj(v) on K* and D its Jacobian, each solves the reduced KKT system

        [[P, A'D], [D A, -D (I - D)]] (dx, w) = -(P x + q + A'y, D (A x + s - b)),

    which for a polyhedral K is the system of the active rows. It is symmetric, and singular where the derivative is not
    unique.
    """

    def newton(at: Point) -> Point:
        v = at.y - (program.b - at.z)
        y, derivative = jax.linearize(program.project_dual, v)
        gap = program.rows(at.x) + (y - v) - program.b

        def matvec(unknown: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            dx, w = unknown
            along = derivative(w)
            top = program.hessian(dx) + program.transposed(along)
            return top, derivative(program.rows(dx)) - along + derivative(along)

        rhs = (-(program.hessian(at.x) + program.q + program.transposed(y)), -derivative(gap))
        operator = Operator(matvec, symmetric=True, definite=False, singular=True, owner="the reduced KKT system")
        dx, w = AutoLinear(tol=1e-12)(operator, rhs).value
        v = v + derivative(w) + gap + program.rows(dx)
        y = program.project_dual(v)
        return Point(at.x + dx, y, program.b - (y - v))

    return improved(newton, error, point, POLISHES)


def _largest(v: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(v), initial=0)
