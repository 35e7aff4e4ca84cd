"""A primal-dual interior-point method for quadratic programs with sparse matrices, on the host.

The method of `kernels.conic` on the homogeneous embedding, for the orthant, with one sparse factorisation a step of

    [[P, E', G'], [E, 0, 0], [G, 0, -S/Z]],        S and Z the diagonal matrices of slacks and multipliers.

NumPy and SciPy instead of JAX, because the places of the entries of a sparse factor are known only when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from bilevel.foundation.status import Code
from bilevel.kernels.conic import residuals_of
from bilevel.linear_solve.sparse_factor import Matrix, refined_inverse, saddle

Part = Any  # a vector of NumPy's, or a number

SWEEPS = 10  # of Ruiz' scaling: each takes the square root of the remaining ratios
TO_THE_BOUNDARY = 0.99  # below 1, because slacks and multipliers have to stay positive
PATIENCE = 3  # steps without progress after which the precision is exhausted
NEAR = 1e-6  # steps without progress count below this error only, because farther away it may rise for some steps
PROOF = 1e-8  # the residual that a certificate may have, relative to its size; `programs.verdict` judges it again


class Data(NamedTuple):
    """min 1/2 x'Px + q'x s.t. E x = e, G x + s = h, s >= 0; the matrices in compressed columns."""

    P: Matrix  # (n, n), symmetric
    q: np.ndarray
    E: Matrix  # (p, n)
    e: np.ndarray
    G: Matrix  # (m, n)
    h: np.ndarray


class Iterate(NamedTuple):
    """A point of the embedding, or a direction in it."""

    x: Part
    y: Part
    z: Part
    s: Part
    t: Part
    k: Part

    def plus(self, length: float, step: Iterate) -> Iterate:
        return Iterate(*(part + length * change for part, change in zip(self, step, strict=True)))


class Found(NamedTuple):
    """The last iterate divided by t; divided by its size where it is a certificate that there is no solution."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    steps: int
    code: Code


def solve_sparse(data: Data, tol: float, max_steps: int) -> Found:
    """Solves the program to relative residuals and a relative gap of ``tol``, or to the floor of the precision
    (`Code.stalled`)."""
    scaled, columns, rows, bounds, cost = _equilibrated(data)
    at = best = _start(scaled)
    error, fruitless, code, steps = np.inf, 0, None, 0
    while code is None and steps < max_steps:
        at, steps = _step(scaled, at), steps + 1
        if not all(np.all(np.isfinite(part)) for part in at):
            code = Code.stalled
            break
        now, code = _judge(scaled, at, tol)
        fruitless = fruitless + 1 if error <= NEAR and not now < 0.9 * error else 0
        if now < error or code in (Code.infeasible, Code.unbounded):
            best, error = at, min(now, error)
        if code is None and fruitless >= PATIENCE:
            code = Code.stalled
    code = Code.max_steps if code is None else code
    proof = code in (Code.infeasible, Code.unbounded)
    size = max(_size(*best[:3]), float(np.finfo(float).tiny)) if proof else best.t
    x, y, z = (part / size for part in best[:3])
    return Found(columns * x, rows * y / cost, bounds * z / cost, steps, code)


def _equilibrated(data: Data) -> tuple[Data, np.ndarray, np.ndarray, np.ndarray, float]:
    """The program with rows and columns of [[P, E', G'], [E, 0, 0], [G, 0, 0]] of size about 1, and the scales."""
    P, q, E, e, G, h = data
    columns, rows, bounds, cost = np.ones(q.size), np.ones(e.size), np.ones(h.size), 1.0
    for _ in range(SWEEPS):
        down = np.maximum(np.maximum(_largest(P, 0), _largest(E, 0)), _largest(G, 0))
        across = _root(_largest(E, 1)), _root(_largest(G, 1))
        scale = _root(down)
        P, E, G = _scaled(scale, P, scale), _scaled(across[0], E, scale), _scaled(across[1], G, scale)
        columns, rows, bounds = columns * scale, rows * across[0], bounds * across[1]
        size = max(float(np.mean(_largest(P, 0))) if q.size else 0.0, _size(cost * columns * q))
        more = 1 / size if size > 0 else 1.0
        P, cost = P * more, cost * more
    return Data(P, cost * columns * q, E, rows * e, G, bounds * h), columns, rows, bounds, cost


def _largest(matrix: Matrix, axis: int) -> np.ndarray:
    """The largest entry of each column (axis 0) or row (axis 1)."""
    if matrix.shape[axis] == 0:
        return np.zeros(matrix.shape[1 - axis])
    return np.asarray(abs(matrix).max(axis=axis).todense()).ravel()


def _root(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes > 0, np.where(sizes > 0, sizes, 1) ** -0.5, 1)


def _scaled(rows: np.ndarray, matrix: Matrix, columns: np.ndarray) -> Matrix:
    return scipy.sparse.csc_array(scipy.sparse.diags_array(rows) @ matrix @ scipy.sparse.diags_array(columns))


def _start(data: Data) -> Iterate:
    """The solution with s = -z, both moved into the orthant."""
    x, y, z = _newton(data, np.ones(data.h.size))(-data.q, data.e, data.h)

    def inside(v: np.ndarray) -> np.ndarray:
        short = max(float(np.max(-v, initial=0)), 0.0)
        return v + (1 + short if short > 0 else 1e-2 if _size(v) > 0 else 1.0)

    return Iterate(x, y, inside(z), inside(-z), 1.0, 1.0)


def _newton(data: Data, squares: np.ndarray) -> Callable:
    """Solves P x + E'y + G'z = r_x, E x = r_y, G x - squares z = r_z. One factorisation."""
    n, p = data.q.size, data.e.size
    rows = scipy.sparse.vstack([data.E, data.G], format="csc")
    solve = refined_inverse(saddle(data.P, rows, np.concatenate([np.zeros(p), squares])), n)

    def solved(r_x: np.ndarray, r_y: np.ndarray, r_z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = solve(np.concatenate([r_x, r_y, r_z]))
        return found[:n], found[n : n + p], found[n + p :]

    return solved


def _step(data: Data, at: Iterate) -> Iterate:
    """One predictor-corrector step, as in `kernels.conic`."""
    solve, residuals = _newton(data, at.s / at.z), residuals_of(data, at)
    gap = (at.s @ at.z + at.t * at.k) / (at.s.size + 1)
    x2, y2, z2 = solve(-data.q, data.e, data.h)
    center = at.x / at.t
    pulled = data.P @ center
    bend = 2 * (pulled @ x2) + data.q @ x2 + data.e @ y2 + data.h @ z2 - center @ pulled - at.k / at.t

    def direction(affine: Iterate) -> Iterate:
        """The predictor from ``affine`` = 0, and the corrector from the predictor."""
        # Mehrotra's rule: the farther the predictor can go, the less the corrector is centred.
        centering = (1 - min(1.0, _longest(at, affine))) ** 3
        pull = (at.s * at.z + affine.s * affine.z - centering * gap) / at.z
        last = at.t * at.k + affine.t * affine.k - centering * gap
        r_x, r_y, r_z, r_t = ((1 - centering) * residual for residual in residuals)
        x1, y1, z1 = solve(-r_x, -r_y, pull - r_z)
        slope = 2 * (pulled @ x1) + data.q @ x1 + data.e @ y1 + data.h @ z1
        t = (-r_t + last / at.t - slope) / bend
        z = z1 + t * z2
        return Iterate(x1 + t * x2, y1 + t * y2, z, -pull - at.s / at.z * z, t, -(last + at.k * t) / at.t)

    zero = Iterate(*(0 * part for part in at))
    step = direction(direction(zero))
    moved = at.plus(min(1.0, TO_THE_BOUNDARY * _longest(at, step)), step)
    size = max(moved.t, moved.k)  # kept at one scale: the embedding is homogeneous
    return Iterate(*(part / size for part in moved))


def _longest(at: Iterate, step: Iterate) -> float:
    """The longest step along which all of s, z, t and k stay nonnegative; infinity for none that ends."""
    values = np.concatenate([at.s, at.z, [at.t, at.k]])
    changes = np.concatenate([step.s, step.z, [step.t, step.k]])
    falls = changes < 0
    return float(np.min(values[falls] / -changes[falls], initial=np.inf))


def _judge(data: Data, at: Iterate, tol: float) -> tuple[float, Code | None]:
    """The largest of the relative residuals and the relative gap, and the code that ends the iteration, if any."""
    P, q, E, e, G, h = data
    r_x, r_y, r_z, _ = residuals_of(data, at)
    Px = P @ at.x
    curved, cost, bound = at.x @ Px / at.t, q @ at.x, -(e @ at.y + h @ at.z)
    primal = _size(r_y, r_z) / (at.t + _size(at.x, at.s))
    dual = _size(r_x) / (at.t + _size(at.x) + _size(at.y, at.z))
    gap = abs(curved + cost - bound) / (at.t + min(abs(curved / 2 + cost), abs(curved / 2 - bound)))
    error = float(max(primal, dual, gap))
    if error <= tol:
        return error, Code.converged
    if bound > 0 and _size(E.T @ at.y + G.T @ at.z) <= PROOF * bound:
        return error, Code.infeasible
    if cost < 0 and max(_size(Px), _size(E @ at.x), _size(G @ at.x + at.s)) <= -PROOF * cost:
        return error, Code.unbounded
    return error, None


def _size(*parts: np.ndarray) -> float:
    return max(float(np.max(np.abs(part), initial=0)) for part in parts)
