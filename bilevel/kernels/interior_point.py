"""A primal-dual interior-point method for convex quadratic programs, on the homogeneous embedding.

The embedding of min 1/2 x'Qx + q'x, Ax = b, Gx + s = h, s >= 0 asks for (x, y, z, s, t, k) with s, z, t, k >= 0 and

    Qx + A'y + G'z + q t = 0,    Ax = b t,    Gx + s = h t,    k = -q'x - b'y - h'z - x'Qx / t,    s z = 0,    t k = 0.

It always has a solution: with t > 0, (x, y, z) / t solves the program; with t = 0, (y, z) or x proves that there is
none. References: Mehrotra, On the implementation of a primal-dual interior point method, 1992; Goulart and Chen,
Clarabel: an interior-point solver for conic programs with quadratic objectives, 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code

MAX_STEPS = 100
RUNNING = -1


class Program(NamedTuple):
    """min 1/2 x'Qx + q'x subject to Ax = b, Gx <= h."""

    Q: jax.Array
    q: jax.Array
    A: jax.Array
    b: jax.Array
    G: jax.Array
    h: jax.Array


class Iterate(NamedTuple):
    """A point of the embedding, or a direction in it."""

    x: jax.Array
    y: jax.Array
    z: jax.Array
    s: jax.Array
    t: jax.Array
    k: jax.Array


class _Loop(NamedTuple):
    iterate: Iterate
    steps: jax.Array
    code: jax.Array


def interior_point(program: Program) -> tuple[Iterate, jax.Array, jax.Array]:
    """The last iterate, divided by t unless there is no solution, the number of steps, and a `Code`.

    Meant for a program whose rows and columns have size 1 (see `equilibrate`): the tolerances refer to that size.
    Accurate to about the square root of the precision; `polish` gives the other digits.
    """
    start = _start(program)
    loop = _Loop(start, jnp.zeros((), jnp.int32), jnp.asarray(RUNNING, jnp.int32))

    def proceed(loop: _Loop) -> jax.Array:
        return (loop.code == RUNNING) & (loop.steps < MAX_STEPS)

    def body(loop: _Loop) -> _Loop:
        moved = _step(program, loop.iterate)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(part)) for part in moved]))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, loop.iterate)
        code = jnp.where(finite, _code(program, kept), Code.stalled)
        return _Loop(kept, loop.steps + 1, code.astype(jnp.int32))

    iterate, steps, code = jax.lax.while_loop(proceed, body, loop)
    code = jnp.where(code == RUNNING, Code.max_steps, code).astype(jnp.int32)
    return Iterate(*(part / iterate.t for part in iterate)), steps, code


def _start(program: Program) -> Iterate:
    dtype = program.q.dtype
    solve = _kkt_solver(program, jnp.ones(program.h.size, dtype))
    x, y, z = solve(-program.q, program.b, program.h)
    one = jnp.ones((), dtype)
    deepest = jnp.max(jnp.abs(z), initial=0.0)
    return Iterate(x, y, jnp.maximum(z, 0) + one + 0.1 * deepest, jnp.maximum(-z, 0) + one + 0.1 * deepest, one, one)


def _kkt_solver(program: Program, weights: jax.Array) -> Callable:
    """Solves Q x + A'y + G'z = r_x, A x = r_y, G x - z / weights = r_z; z is eliminated, errors are corrected twice."""
    Q, _, A, _, G, _ = program
    n, p = Q.shape[0], A.shape[0]
    ridge = 1e-2 * jnp.sqrt(jnp.finfo(Q.dtype).eps)
    corner = Q + (G.T * weights) @ G
    matrix = jnp.block([[corner + ridge * jnp.eye(n, dtype=Q.dtype), A.T], [A, -ridge * jnp.eye(p, dtype=Q.dtype)]])
    factors = jax.scipy.linalg.lu_factor(matrix)

    def once(r_x, r_y, r_z):
        flat = jax.scipy.linalg.lu_solve(factors, jnp.concatenate([r_x + G.T @ (weights * r_z), r_y]))
        return flat[:n], flat[n:], weights * (G @ flat[:n] - r_z)

    def solve(r_x, r_y, r_z):
        x, y, z = once(r_x, r_y, r_z)
        for _ in range(2):
            rest = (r_x - Q @ x - A.T @ y - G.T @ z, r_y - A @ x, r_z - G @ x + z / weights)
            x, y, z = (part + correction for part, correction in zip((x, y, z), once(*rest), strict=True))
        return x, y, z

    return solve


def _residuals(program: Program, at: Iterate) -> tuple[jax.Array, ...]:
    Q, q, A, b, G, h = program
    return (
        Q @ at.x + A.T @ at.y + G.T @ at.z + q * at.t,
        A @ at.x - b * at.t,
        G @ at.x + at.s - h * at.t,
        at.k + q @ at.x + b @ at.y + h @ at.z + at.x @ (Q @ at.x) / at.t,
    )


def _step(program: Program, at: Iterate) -> Iterate:
    """One predictor-corrector step (Mehrotra)."""
    solve = _kkt_solver(program, at.z / at.s)
    second = solve(-program.q, program.b, program.h)
    gap = (at.s @ at.z + at.t * at.k) / (at.s.size + 1)
    predictor = _direction(program, at, solve, second, 0.0, at.s * at.z, at.t * at.k)
    length = jnp.minimum(1.0, _longest(at, predictor))
    centering = (1 - length) ** 3
    products = at.s * at.z + predictor.s * predictor.z - centering * gap
    last = at.t * at.k + predictor.t * predictor.k - centering * gap
    corrector = _direction(program, at, solve, second, centering, products, last)
    length = jnp.minimum(1.0, 0.99 * _longest(at, corrector))
    moved = Iterate(*(part + length * change for part, change in zip(at, corrector, strict=True)))
    size = jnp.maximum(moved.t, moved.k)  # kept at one scale: the embedding is homogeneous
    return Iterate(*(part / size for part in moved))


def _direction(program, at: Iterate, solve, second, centering, products, last) -> Iterate:
    """The Newton direction that leaves the share ``centering`` of the residuals and takes ``products`` from s z."""
    Q, q, _, b, _, h = program
    r_x, r_y, r_z, r_t = ((1 - centering) * residual for residual in _residuals(program, at))
    x1, y1, z1 = solve(-r_x, -r_y, products / at.z - r_z)
    x2, y2, z2 = second
    center = at.x / at.t
    bend = (x2 - center) @ (Q @ (x2 - center)) + jnp.sum(at.s / at.z * z2**2) + at.k / at.t
    slope = q @ x1 + b @ y1 + h @ z1 + 2 * center @ (Q @ x1)
    t = (r_t - last / at.t + slope) / bend
    x, y, z = x1 + t * x2, y1 + t * y2, z1 + t * z2
    return Iterate(x, y, z, -(products + at.s * z) / at.z, t, -(last + at.k * t) / at.t)


def _longest(at: Iterate, direction: Iterate) -> jax.Array:
    """The longest step that keeps s, z, t and k non-negative."""
    values = jnp.concatenate([at.s, at.z, at.t[None], at.k[None]])
    changes = jnp.concatenate([direction.s, direction.z, direction.t[None], direction.k[None]])
    return jnp.min(jnp.where(changes < 0, -values / jnp.where(changes < 0, changes, 1), jnp.inf))


def _code(program: Program, at: Iterate) -> jax.Array:
    Q, q, A, b, G, h = program
    tol = jnp.sqrt(jnp.finfo(q.dtype).eps)
    r_x, r_y, r_z, _ = _residuals(program, at)
    x, dual = _size(at.x), jnp.maximum(_size(at.y), _size(at.z))
    cost = at.x @ (Q @ at.x) / at.t
    gap = jnp.abs(cost + q @ at.x + b @ at.y + h @ at.z)
    primal = jnp.maximum(_size(r_y), _size(r_z)) <= 0.01 * tol * (at.t + x)
    stationary = _size(r_x) <= 0.01 * tol * (at.t + x + dual)
    closed = gap <= 0.01 * tol * (at.t + jnp.abs(q @ at.x) + jnp.abs(cost))
    separates = -(b @ at.y + h @ at.z)
    infeasible = (separates > 0) & (_size(A.T @ at.y + G.T @ at.z) <= tol * separates)
    falls = -(q @ at.x)
    ray = jnp.maximum(jnp.maximum(_size(Q @ at.x), _size(A @ at.x)), _size(jnp.maximum(G @ at.x, 0)))
    unbounded = (falls > 0) & (ray <= tol * falls)
    code = jnp.where(unbounded, Code.unbounded, jnp.where(infeasible, Code.infeasible, RUNNING))
    return jnp.where(primal & stationary & closed, Code.converged, code)


def _size(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0.0)
