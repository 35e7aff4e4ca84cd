"""A primal-dual interior-point method for quadratic programs over the orthant and second-order cones.

    min 1/2 x'Px + q'x   s.t.   E x = e,   G x + s = h,   s in K,         z the multipliers of the cone, y of E

on the homogeneous embedding, which has a solution whether or not the program has one: (x, y, z, s, t, k), s and z in K,
t, k >= 0,

    P x + E'y + G'z + q t = 0,   E x = e t,   G x + s = h t,   k = -q'x - e'y - h'z - x'Px / t,   s o z = 0,   t k = 0.

With t > 0, (x, y, z) / t solves the program; with t = 0, (y, z) or x proves that it has no solution.
Sources: Mehrotra, 1992; Vandenberghe, The CVXOPT linear and quadratic cone program solvers, 2010; Goulart and Chen,
Clarabel: an interior-point solver for conic programs with quadratic objectives, 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.status import Code
from bilevel.kernels.certificate import no_minimum, no_point
from bilevel.kernels.condensed import Parts, factored
from bilevel.kernels.second_orders import SecondOrders, scaling

RUNNING = -1  # no `Code` yet
TO_THE_BOUNDARY = 0.99  # below 1, because s and z have to stay inside of the cones
PATIENCE = 3  # steps without progress after which the precision is exhausted


class Data(NamedTuple):
    """The arrays of a program; shapes (n, n), (n,), (p, n), (p,), (m, n), (m,)."""

    P: jax.Array
    q: jax.Array
    E: jax.Array
    e: jax.Array
    G: jax.Array
    h: jax.Array


class Units(NamedTuple):
    """What brings the rows and columns of [E; G] to size 1: the units in which a proof is judged."""

    columns: jax.Array
    rows: jax.Array
    bounds: jax.Array


class Iterate(NamedTuple):
    """A point of the embedding, or a direction in it."""

    x: jax.Array
    y: jax.Array
    z: jax.Array
    s: jax.Array
    t: jax.Array
    k: jax.Array

    def plus(self, length: jax.Array, step: Iterate) -> Iterate:
        return Iterate(*(part + length * change for part, change in zip(self, step, strict=True)))


class Found(NamedTuple):
    """The last iterate divided by t (a certificate, divided by its size, where there is no solution)."""

    x: jax.Array
    y: jax.Array
    z: jax.Array
    s: jax.Array
    steps: jax.Array
    code: jax.Array


class _Loop(NamedTuple):
    at: Iterate
    best: Iterate
    error: jax.Array  # of the best
    fruitless: jax.Array
    steps: jax.Array
    code: jax.Array


def solve_conic(data: Data, cones: SecondOrders, units: Units, tol: float | jax.Array, max_steps: int) -> Found:
    """Solves the program to relative residuals and a relative gap of ``tol``, or to the floor of the precision
    (`Code.stalled`). Meant for data of size about 1 (see `equilibrate`), which gives the tolerance its meaning.
    `Code.infeasible` and `Code.unbounded` are proofs, see `certificate`."""
    tol = jnp.maximum(jnp.asarray(tol, data.q.dtype), 4 * jnp.finfo(data.q.dtype).eps)
    start = _start(data, cones)

    def body(loop: _Loop) -> _Loop:
        at = _step(data, cones, loop.at)
        error, code = _judge(data, cones, units, at, tol)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in at]))
        better = finite & (error < loop.error)
        # A proof is kept although its point is far from the conditions of a solution.
        best = jax.tree.map(lambda new, old: jnp.where(better | (code >= Code.infeasible), new, old), at, loop.best)
        # Fruitless steps count near the floor only, because farther away the error may rise for some steps.
        near = loop.error <= float(jnp.finfo(data.q.dtype).eps) ** 0.4
        fruitless = jnp.where(near & ~(error < 0.9 * loop.error), loop.fruitless + 1, 0)
        code = jnp.where((code == RUNNING) & (fruitless >= PATIENCE), Code.stalled, code)
        code = jnp.where(finite, code, Code.stalled).astype(jnp.int32)
        return _Loop(at, best, jnp.where(better, error, loop.error), fruitless, loop.steps + 1, code)

    zero = jnp.zeros((), jnp.int32)
    loop = jax.lax.while_loop(
        lambda loop: (loop.code == RUNNING) & (loop.steps < max_steps),
        body,
        _Loop(start, start, jnp.asarray(jnp.inf, data.q.dtype), zero, zero, zero + RUNNING),
    )
    none = (loop.code == Code.infeasible) | (loop.code == Code.unbounded)
    code = jnp.where(loop.code == RUNNING, Code.max_steps, loop.code).astype(jnp.int32)
    size = jnp.where(none, jnp.maximum(_size(*loop.best[:3]), jnp.finfo(data.q.dtype).tiny), loop.best.t)
    x, y, z, s = (part / size for part in loop.best[:4])
    return Found(x, y, z, s, loop.steps, code)


def _start(data: Data, cones: SecondOrders) -> Iterate:
    """The solution with s = -z, both moved into the cones."""
    unit = cones.identity(data.q.dtype)
    solve = _newton(data, data.G, lambda v: v)
    x, y, z = solve(-data.q, data.e, data.h)

    def inside(v: jax.Array) -> jax.Array:
        short = jnp.max(-cones.distance(v), initial=0)
        return v + jnp.where(short > 0, 1 + short, jnp.where(_size(v) > 0, 1e-2, 1.0)) * unit

    one = jnp.ones((), data.q.dtype)
    return Iterate(x, y, inside(z), inside(-z), one, one)


def _newton(data: Data, scaled: jax.Array, weigh: Callable[[jax.Array], jax.Array]) -> Callable:
    """Solves P x + E'y + G'z = r_x, E x = r_y, G x - W^2 z = r_z for columns of right-hand sides; ``scaled`` is
    W^{-1} G and ``weigh`` applies W^{-1}. One factorisation, one refinement."""
    P, E = data.P, data.E
    solve = factored(Parts(P, scaled, jnp.ones(scaled.shape[0], P.dtype), E))

    def refined(r_x: jax.Array, r_y: jax.Array, r_z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        known = weigh(r_z)

        def again(_: int, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x, y = found
            rest = r_x - P @ x - E.T @ y - scaled.T @ (scaled @ x - known)
            more = solve(rest, r_y - E @ x)
            return x + more[0], y + more[1]

        start = jnp.zeros_like(r_x), jnp.zeros_like(r_y)
        x, y = jax.lax.fori_loop(0, 2, again, start)  # a loop is compiled once
        return x, y, weigh(scaled @ x - known)

    return refined


def residuals_of(data: Any, at: Any) -> tuple[Any, Any, Any, Any]:
    """How far a point is from the equations of the embedding; for arrays of JAX, of NumPy and sparse matrices."""
    P, q, E, e, G, h = data
    Px = P @ at.x
    return (
        Px + E.T @ at.y + G.T @ at.z + q * at.t,
        E @ at.x - e * at.t,
        G @ at.x + at.s - h * at.t,
        at.k + q @ at.x + e @ at.y + h @ at.z + at.x @ Px / at.t,
    )


def _step(data: Data, cones: SecondOrders, at: Iterate) -> Iterate:
    """One predictor-corrector step."""
    W = scaling(cones, at.s, at.z)
    root = W.forward(cones, at.z)  # W z = W^{-1} s
    solve = _newton(data, W.inverse(cones, data.G), lambda v: W.inverse(cones, v))
    residuals = residuals_of(data, at)
    degree = len(cones.lengths) + 1
    gap = (at.s @ at.z + at.t * at.k) / degree
    second = solve(-data.q, data.e, data.h)

    squares = cones.product(root, root)

    def direction(_: int, affine: Iterate) -> Iterate:
        """The predictor from ``affine`` = 0, and the corrector from the predictor: removes a share of the residuals and
        ``products`` from W^{-1}s o Wz, ``last`` from t k."""
        # Mehrotra's rule: the farther the predictor can go, the less the corrector is centred.
        centering = (1 - jnp.minimum(1.0, _longest(cones, at, affine))) ** 3
        bent = cones.product(W.inverse(cones, affine.s), W.forward(cones, affine.z))
        products = squares + bent - centering * gap * cones.identity(gap.dtype)
        last = at.t * at.k + affine.t * affine.k - centering * gap
        r_x, r_y, r_z, r_t = ((1 - centering) * residual for residual in residuals)
        pull = W.forward(cones, cones.quotient(root, products))
        x1, y1, z1 = solve(-r_x, -r_y, pull - r_z)
        center = at.x / at.t
        Pc = data.P @ center
        x2, y2, z2 = second
        bend = 2 * (Pc @ x2) + data.q @ x2 + data.e @ y2 + data.h @ z2 - center @ Pc - at.k / at.t
        slope = 2 * (Pc @ x1) + data.q @ x1 + data.e @ y1 + data.h @ z1
        t = (-r_t + last / at.t - slope) / bend
        z = z1 + t * z2
        s = -pull - W.forward(cones, W.forward(cones, z))
        return Iterate(x1 + t * x2, y1 + t * y2, z, s, t, -(last + at.k * t) / at.t)

    step = jax.lax.fori_loop(0, 2, direction, jax.tree.map(jnp.zeros_like, at))  # a loop is compiled once
    moved = at.plus(jnp.minimum(1.0, TO_THE_BOUNDARY * _longest(cones, at, step)), step)
    size = jnp.maximum(moved.t, moved.k)  # kept at one scale: the embedding is homogeneous
    return Iterate(*(part / size for part in moved))


def _longest(cones: SecondOrders, at: Iterate, step: Iterate) -> jax.Array:
    ends = SecondOrders((1, 1)).longest(jnp.stack([at.t, at.k]), jnp.stack([step.t, step.k]))
    return jnp.minimum(ends, jnp.minimum(cones.longest(at.s, step.s), cones.longest(at.z, step.z)))


def _judge(data: Data, cones: SecondOrders, units: Units, at: Iterate, tol: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest of the relative residuals and the relative gap, and a `Code`."""
    P, q, E, e, G, h = data
    r_x, r_y, r_z, _ = residuals_of(data, at)
    Px = P @ at.x
    curved, cost, bound = at.x @ Px / at.t, q @ at.x, -(e @ at.y + h @ at.z)
    primal = _size(r_y, r_z) / (at.t + _size(at.x, at.s))
    dual = _size(r_x) / (at.t + _size(at.x) + _size(at.y, at.z))
    gap = jnp.abs(curved + cost - bound) / (at.t + jnp.minimum(jnp.abs(curved / 2 + cost), jnp.abs(curved / 2 - bound)))
    error = jnp.maximum(jnp.maximum(primal, dual), gap)
    columns, rows, bounds = units
    forces = columns * (E.T @ at.y + G.T @ at.z)
    sides, duals = jnp.concatenate([rows * e, bounds * h]), jnp.concatenate([at.y / rows, at.z / bounds])
    left = jnp.concatenate([rows * (E @ at.x), bounds * (G @ at.x + at.s)])
    ray = columns * q, at.x / columns, columns * Px, left, columns**2 * jnp.diagonal(P)
    code = jnp.where(no_point(sides, duals, forces), Code.infeasible, RUNNING)
    code = jnp.where(no_minimum(*ray), Code.unbounded, code)
    return error, jnp.where(error <= tol, Code.converged, code).astype(jnp.int32)


def _size(*parts: jax.Array) -> jax.Array:
    sizes = [jnp.max(jnp.abs(part), initial=0) for part in parts]
    return jnp.max(jnp.stack(sizes))
