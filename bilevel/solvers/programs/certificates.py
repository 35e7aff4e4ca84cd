"""Proofs, read off an iterate, that a problem constrained by functions has no solution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.status import Code
from bilevel.kernels.certificate import no_minimum, no_point
from bilevel.kernels.conic import Data, Units
from bilevel.kernels.equilibrate import units
from bilevel.kernels.matrices import is_positive_semidefinite
from bilevel.kernels.second_orders import SecondOrders
from bilevel.solvers.programs.predictor_corrector import Iterate
from bilevel.solvers.programs.stated_by_functions import Degrees, Derivatives, Program

FAR = (1e-4, 1e-2, 1.0)  # a loss that is not quadratic is evaluated along a ray at these shares of the reach


def judge(program: Program, scale: jax.Array, here: Derivatives, at: Iterate, step: jax.Array) -> jax.Array:
    """`Code.infeasible`, `Code.unbounded`, or `Code.converged` where neither is proved.

    ``here`` are the derivatives at the iterate ``at``, with inequalities multiplied by ``scale``; ``step`` is the
    direction of the iterates. A proof from one iterate holds everywhere only for affine and quadratic functions,
    because elsewhere a local stationary point of the violation proves nothing. The program of the derivatives tells
    which functions are affine or quadratic.
    """
    here, at, step = jax.lax.stop_gradient((here, at, step))
    degrees = program.degrees(at.primal)
    data = Data(here.hessian, here.gradient, here.equality_rows, here.equality, here.inequality_rows, here.inequality)
    measures = units(data, SecondOrders((1,) * here.inequality.size))
    unbounded = _unbounded(program, degrees, scale, here, at.primal, step, measures)
    code = jnp.where(unbounded, Code.unbounded, Code.converged)
    infeasible = _infeasible(program, degrees, scale, here, at, measures)
    return jnp.where(infeasible, Code.infeasible, code).astype(jnp.int32)


def _close(x: jax.Array, power: float = 0.5) -> float:
    return float(jnp.finfo(x.dtype).eps) ** power


def _infeasible(
    program: Program, degrees: Degrees, scale: jax.Array, here: Derivatives, at: Iterate, measures: Units
) -> jax.Array:
    """Multipliers y with y'c(w) > 0 at every w: y'c is convex, so it lies above its tangent (Farkas). Rows that are
    neither affine nor quadratic are left out, and of quadratic ones the weighted sum has to be convex."""
    nu = jnp.where(degrees.equality <= 2, at.equality_dual, 0)
    lam = jnp.where(degrees.inequality <= 2, at.inequality_dual, 0)
    x, convex, rows = at.primal, jnp.bool_(True), here
    if np.any(degrees.equality == 2) or np.any(degrees.inequality == 2):
        x, convex = _lowest(program, x, nu, scale * lam)
        rows = program.constraints(x).scaled(scale)
    forces = rows.equality_rows.T @ nu + rows.inequality_rows.T @ lam
    equality = measures.rows * (rows.equality_rows @ x - rows.equality)
    inequality = measures.bounds * (rows.inequality_rows @ x - rows.inequality)
    sides, duals = jnp.concatenate([equality, inequality]), jnp.concatenate([nu / measures.rows, lam / measures.bounds])
    close = _close(x, 0.4)  # loose, because the forces fall no further while the multipliers grow
    return convex & no_point(sides, duals, measures.columns * forces, close)


def _lowest(program: Program, x: jax.Array, nu: jax.Array, lam: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The minimiser of the quadratic nu'equality + lam'inequality, from ``x``, and whether it is convex.

    The iterate x cannot replace it, because in an infeasible problem the multipliers grow without end while x need not
    settle.
    """
    slope, curvature = jax.grad(program.weighted)(x, nu, lam), jax.hessian(program.weighted)(x, nu, lam)
    largest = jnp.max(jnp.abs(curvature))
    shift = float(jnp.finfo(x.dtype).eps) * jnp.where(largest > 0, largest, 1)
    lifted = 0.5 * (curvature + curvature.T) + x.size * shift * jnp.eye(x.size, dtype=x.dtype)
    moved = x - jax.scipy.linalg.solve(lifted, slope)
    return jnp.where(jnp.all(jnp.isfinite(moved)), moved, x), is_positive_semidefinite(lifted)


def _unbounded(
    program: Program,
    degrees: Degrees,
    scale: jax.Array,
    here: Derivatives,
    x: jax.Array,
    step: jax.Array,
    measures: Units,
) -> jax.Array:
    """Whether along a ray the loss falls without a turn and every constraint keeps holding."""
    columns, rows, bounds = measures
    left = jnp.concatenate([rows * (here.equality_rows @ step), bounds * jnp.maximum(here.inequality_rows @ step, 0)])
    curved, diagonal = columns * (here.hessian @ step), columns**2 * jnp.diagonal(here.hessian)
    falls = no_minimum(columns * here.gradient, step / columns, curved, left, diagonal, _close(x))
    affine = np.all(degrees.equality == 1) and np.all(degrees.inequality == 1)
    return falls if affine and degrees.loss <= 2 else falls & _falls_far(program, scale, here, x, step)


def _falls_far(program: Program, scale: jax.Array, here: Derivatives, x: jax.Array, step: jax.Array) -> jax.Array:
    """Whether far along a ray the loss still falls at half the rate at least, and constraints hold in proportion."""
    size = jnp.linalg.norm(step)
    ray = step / jnp.where(size > 0, size, 1)
    reach = (jnp.linalg.norm(x) + size) / _close(x)

    def at(distance: jax.Array) -> jax.Array:
        point = x + distance * ray
        slope = jax.grad(program.value)(point) @ ray
        violated = jnp.concatenate([jnp.abs(program.equality(point)), scale * program.inequality(point)])
        return (slope <= 0.5 * (here.gradient @ ray)) & (jnp.max(violated, initial=0) <= 10 * _close(x) * distance)

    return jnp.all(jax.vmap(at)(reach * jnp.asarray(FAR, x.dtype)))
