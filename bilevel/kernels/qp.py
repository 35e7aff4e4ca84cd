"""Convex quadratic programs: dense, exact to rounding, with derivatives of the primal and of both duals."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.status import Code, Status
from bilevel.kernels.activity import units_of
from bilevel.kernels.arrays import as_point, like
from bilevel.kernels.conic import Data, solve_conic
from bilevel.kernels.equilibrate import equilibrate, units
from bilevel.kernels.polish import Settled, settled
from bilevel.kernels.program_derivative import moving
from bilevel.kernels.residual import Products, relative_residual
from bilevel.kernels.second_orders import SecondOrders

MAX_STEPS = 100  # several times as many as a program with a solution takes


class QPSolution(NamedTuple):
    """The minimiser and the multipliers of L = 1/2 x'Qx + q'x + y'(Ax - b) + z'(Gx - h); NaN where there is none."""

    x: jax.Array
    y: jax.Array
    z: jax.Array
    residual: jax.Array  # the largest violation of the optimality conditions, relative to their terms
    steps: jax.Array
    status: Status


def solve_qp(Q: ArrayLike, q: ArrayLike, A: ArrayLike, b: ArrayLike, G: ArrayLike, h: ArrayLike) -> QPSolution:
    """min 1/2 x'Qx + q'x subject to Ax = b and Gx <= h, for a symmetric positive semidefinite Q.

    Shapes: Q (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,); p and m may be zero, and entries of h infinite (no
    constraint). An interior-point method finds the active rows; Newton steps on these rows give the last digits. x, y
    and z are differentiable in every argument, in both modes and repeatedly. Where constraints are dependent or rows
    are weakly active, the derivative is the one of least norm on the rows where z outweighs h - Gx. Of several
    minimisers one is returned. A failure is a status (infeasible, unbounded or max_steps) and raises nothing.

    >>> solution = solve_qp(jnp.eye(2), -jnp.ones(2), jnp.zeros((0, 2)), jnp.zeros(0), jnp.ones((1, 2)), jnp.ones(1))
    >>> solution.x.round(6).tolist(), solution.z.round(6).tolist(), solution.status.name
    ([0.5, 0.5], [0.5], 'converged')
    """
    q = as_point(q)
    Q, A, b, G, h = (like(array, q) for array in (Q, A, b, G, h))
    bounded = h < jnp.inf
    program = Q, q, A, b, jnp.where(bounded[:, None], G, 0), jnp.where(bounded, h, 1)
    found, steps, code = jax.lax.stop_gradient(_found(Data(*jax.lax.stop_gradient(program))))
    at, reading, by = found
    residual = jax.lax.stop_gradient(_residual(program, at))
    tol = float(jnp.finfo(residual.dtype).eps) ** 0.75
    solved = jnp.where(residual <= tol, Code.converged, jnp.where(residual <= tol**0.5, Code.stalled, Code.max_steps))
    none = (code == Code.infeasible) | (code == Code.unbounded)
    status = Status.of(jnp.where(none, code, jnp.where(jnp.isfinite(residual), solved, Code.nonfinite)))
    usable = jnp.where(none, jnp.nan, 1).astype(q.dtype)
    told = jnp.where(status.ok & reading.told, usable, jnp.nan)
    x, y, z = moving(tuple(usable * part for part in at), (*program, told), reading, by)
    return QPSolution(x, y, z, residual, steps, status)


def _found(data: Data) -> tuple[Settled, jax.Array, jax.Array]:
    """The solution, exact to rounding, the number of steps and the code of the interior-point method."""
    cones = SecondOrders((1,) * data.h.size)
    data = data._replace(P=0.5 * (data.P + data.P.T))
    scaled, scales = equilibrate(data, cones)
    found = solve_conic(scaled, cones, units(scaled, cones), float(jnp.finfo(data.q.dtype).eps) ** 0.5, MAX_STEPS)
    at = scales.columns * found.x, scales.rows * found.y / scales.cost, scales.bounds * found.z / scales.cost
    measures = units_of(data.P, jnp.concatenate([data.E, data.G]))
    return settled(data, at, measures), found.steps, found.code


def _residual(program: tuple[jax.Array, ...], at: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    Q, q, A, b, G, h = program
    x, y, z = at
    products = Products(0.5 * (Q + Q.T) @ x, A.T @ y + G.T @ z, jnp.concatenate([A @ x, G @ x]))

    def project(s: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.zeros_like(b), jnp.maximum(s[b.size :], 0)])

    return relative_residual(products, q, jnp.concatenate([b, h]), project, x, jnp.concatenate([y, z]))
