"""Which inequalities hold a solution, judged in units that rescaling a row, an unknown or the objective does not
change."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import LinearMap
from bilevel.kernels.matrices import Matrix, between, is_sparse, largest, sparse, stacked
from bilevel.linear_solve.condensed import no_pivot_lost

STEPS = 24  # of conjugate gradients for the units; three suffice where all entries are nonzero
SMALL = 24  # unknowns and rows up to which a Cholesky factor is faster than three steps
CLOSE = 1e-6  # the error of the logarithms, which are rounded
DIGITS = 1e3  # a strength below so many units of rounding, or multiples of the residual, is zero
DOUBT = 10  # a strength below so many multiples of a residual above rounding does not tell whether a row is active
FLOOR = 0.625  # eps to this power counts as rounding: 2e-10 in float64, 5e-5 in float32

Program = tuple[Matrix, ...]  # (Q, q, A, b, G, h) of min 1/2 x'Qx + q'x, Ax = b, Gx <= h
Point = tuple[jax.Array, jax.Array, jax.Array]  # (x, y, z)


class Units(NamedTuple):
    """x = columns * x^, duals = rows * duals^: the matrices are columns Q columns and rows C columns."""

    columns: jax.Array  # (n,)
    rows: jax.Array  # (k,)


def units_of(curvature: Matrix, rows: Matrix, owner: np.ndarray | None = None) -> Units:
    """Units in which the nonzero entries of [[Q, C'], [C, 0]] have a geometric mean near 1.

    Their logarithms u minimise the sum of (log |K_ij| + u_i + u_j)^2. Multiplying a row, a column or the objective
    moves u by exactly the logarithm of the factor. The unit of a row is not its largest entry, because that would hide
    the other entries. ``owner`` numbers the groups of rows that share one unit, as the rows of a cone do. The units are
    powers of two, so that scaling rounds nothing. Source: Curtis and Reid, On the automatic scaling of matrices for
    Gaussian elimination, 1972.

    >>> columns, rows = units_of(jnp.zeros((2, 2)), jnp.array([[1.0, 64.0], [4.0, 256.0]]))
    >>> (rows[:, None] * jnp.array([[1.0, 64.0], [4.0, 256.0]]) * columns).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    n = rows.shape[1]
    logs, present = (_logs_of_stored if is_sparse(curvature) or is_sparse(rows) else _logs)(curvature, rows)
    entries = jnp.maximum(present(jnp.ones_like(logs)), 1)
    if owner is None and logs.size <= SMALL:
        u = _by_factor(jax.vmap(present)(jnp.eye(logs.size, dtype=logs.dtype)), entries, -logs)
    elif owner is None:
        u = _least_squares(lambda u: entries * u + present(u), entries, -logs)
    else:
        groups = np.concatenate([np.arange(n), n + owner])
        number = n + int(owner.max(initial=0)) + 1

        def summed(u: jax.Array) -> jax.Array:
            return jax.ops.segment_sum(u, groups, number)

        weights = jnp.maximum(summed(entries), 1)
        u = _least_squares(lambda v: summed(entries * v[groups] + present(v[groups])), weights, -summed(logs))[groups]
    u = jnp.exp2(jnp.round(u))
    return Units(u[:n], u[n:])


def _by_factor(present: jax.Array, entries: jax.Array, target: jax.Array) -> jax.Array:
    """The same as `_least_squares` up to ``close``, by a factor: a few small ones cost less than a loop."""
    close = max(CLOSE, 64 * float(jnp.finfo(target.dtype).eps)) / 64  # beside the range of the logarithms
    factor = jnp.linalg.cholesky(present + jnp.diag((1 + close) * entries))
    return jax.scipy.linalg.cho_solve((factor, True), target)


class _Descent(NamedTuple):
    u: jax.Array
    left: jax.Array  # the rest of the right-hand side
    direction: jax.Array
    square: jax.Array  # of ``left``, in the inverse weights
    steps: jax.Array


def _least_squares(product: LinearMap, weights: jax.Array, target: jax.Array) -> jax.Array:
    """The solution from zero of a semidefinite system with a diagonal near ``weights``, by conjugate gradients. Where
    all entries are nonzero, three steps find it."""
    close = max(CLOSE, 64 * float(jnp.finfo(target.dtype).eps))

    def step(at: _Descent) -> _Descent:
        image = product(at.direction)
        bent = at.direction @ image
        length = jnp.where(bent > 0, at.square / jnp.where(bent > 0, bent, 1), 0)
        left = at.left - length * image
        square = left @ (left / weights)
        direction = left / weights + square / jnp.where(at.square > 0, at.square, 1) * at.direction
        return _Descent(at.u + length * at.direction, left, direction, square, at.steps + 1)

    def proceed(at: _Descent) -> jax.Array:
        return (at.square > close**2) & (at.steps < STEPS)

    first = _Descent(jnp.zeros_like(target), target, target / weights, target @ (target / weights), jnp.int32(0))
    return jax.lax.while_loop(proceed, step, first).u


def _logs(curvature: jax.Array, rows: jax.Array) -> tuple[jax.Array, LinearMap]:
    """The sums of log2 |K_ij| over the nonzero entries of each row of [[Q, C'], [C, 0]], and u -> the sums of u_j."""
    n = rows.shape[1]
    (curved, in_curvature), (pushed, in_rows) = _log2(curvature), _log2(rows)

    def present(u: jax.Array) -> jax.Array:
        return jnp.concatenate([in_curvature @ u[:n] + u[n:] @ in_rows, in_rows @ u[:n]])

    return jnp.concatenate([jnp.sum(curved, axis=1) + jnp.sum(pushed, axis=0), jnp.sum(pushed, axis=1)]), present


def _logs_of_stored(curvature: Matrix, rows: Matrix) -> tuple[jax.Array, LinearMap]:
    """The same from the stored entries of sparse matrices."""
    curvature, rows = sparse(curvature), sparse(rows)
    (count, n), (down, across) = rows.shape, rows.indices.T
    first = jnp.concatenate([curvature.indices[:, 0], n + down, across])
    second = jnp.concatenate([curvature.indices[:, 1], across, n + down])
    logs, present = _log2(jnp.concatenate([curvature.data, rows.data, rows.data]))

    def summed(terms: jax.Array) -> jax.Array:
        return jnp.zeros(n + count, terms.dtype).at[first].add(terms, mode="drop")

    return summed(logs), lambda u: summed(present * u.at[second].get(mode="fill", fill_value=0))


def _log2(entries: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log2 |entry|, 0 for the entries that do not count; and 1 for those that do. The logarithm of the mantissa is in
    float32, which is several times faster, and whose error is nothing beside the rounding of the units."""
    there = (entries != 0) & jnp.isfinite(entries)
    mantissa, exponent = jnp.frexp(jnp.where(there, entries, 1))
    logs = exponent.astype(entries.dtype) + jnp.log2(jnp.abs(mantissa).astype(jnp.float32)).astype(entries.dtype)
    return jnp.where(there, logs, 0), there.astype(entries.dtype)


class Activity(NamedTuple):
    """The inequalities that hold a solution."""

    active: jax.Array  # (m,) whether the multiplier outweighs the slack
    strength: jax.Array  # (m,) max(share of the forces, share of the size of x): 0 where strict complementarity fails
    wanted: jax.Array  # (m,) whether a Newton step should hold the row: also where it is violated and has no multiplier


class Sizes(NamedTuple):
    """The sizes that multipliers and slacks are compared with."""

    forces: jax.Array
    point: jax.Array
    terms: jax.Array  # of the gradients before they cancel: a multiplier of a few units of their rounding is zero


def sizes_of(forces: jax.Array, point: jax.Array, slack: jax.Array, curvature: jax.Array) -> Sizes:
    """Sizes of the gradients and of the point, in `Units`, neither of them rounding. Forces that vanish at an interior
    solution are replaced by curvature times x, and a point that vanishes by the distance that the forces would move
    it."""
    half = jnp.finfo(forces.dtype).eps ** 0.5
    moved = half * forces / jnp.where(curvature > 0, curvature, jnp.inf)
    largest = jnp.max(jnp.abs(slack), initial=0)
    point = jnp.maximum(jnp.maximum(point, half * largest), moved)
    point = jnp.where(point > 0, point, 1)
    forces, terms = jnp.maximum(forces, half * curvature * point), jnp.maximum(forces, curvature * point)
    return Sizes(*(jnp.where(size > 0, size, 1) for size in (forces, point, terms)))


def activity(dual: jax.Array, slack: jax.Array, sizes: Sizes) -> Activity:
    """Compares the multiplier, as a share of the forces, with the slack, as a share of the size of x, both in `Units`.

    >>> activity(jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0]), Sizes(*jnp.ones(3))).active.tolist()
    [True, False]
    """
    push, gap = dual / sizes.forces, slack / (sizes.point + jnp.abs(slack))
    told = dual > DIGITS * jnp.finfo(dual.dtype).eps * sizes.terms
    return Activity((push > gap) & (push > 0), jnp.maximum(jnp.where(told, push, 0), gap), push > gap)


class Reading(NamedTuple):
    """The facts of the rows that hold a point."""

    active: jax.Array
    wanted: jax.Array
    units: Units
    certain: jax.Array  # whether every multiplier or slack exceeds the doubt that rounding and the residual leave
    told: jax.Array  # the same for the residual where it is above rounding: else the active rows are a guess
    residual: jax.Array  # of the optimality conditions, in `Units` and as a share of `Sizes`


def read_program(program: Program, at: Point, units: Units | None = None) -> Reading:
    """The reading of the point (x, y, z) of (Q, q, A, b, G, h), in the ``units`` of the program."""
    units = units_of(program[0], stacked(program[2], program[4])) if units is None else units
    Q, q, A, b, G, h = in_units(program, units)
    x, y, z = into_units(at, units)
    parts = jnp.stack([Q @ x, q, A.T @ y, G.T @ z])
    slack = h - G @ x
    sizes = sizes_of(_size(parts), _size(x), slack, largest(Q))
    sizes = sizes._replace(terms=sizes.forces)  # because the parts are those terms
    active, strength, wanted = activity(z, slack, sizes)
    unmet = jnp.maximum(_size(jnp.where(active, slack, jnp.minimum(slack, 0))), _size(b - A @ x))
    unbalanced = jnp.maximum(_size(jnp.where(active, 0, z)), _size(jnp.sum(parts, axis=0)))
    residual = jnp.maximum(unmet / sizes.point, unbalanced / sizes.forces)
    eps = float(jnp.finfo(x.dtype).eps)
    told = (residual <= eps**FLOOR) | jnp.all(strength > DOUBT * residual)
    return Reading(active, wanted, units, jnp.all(strength > DIGITS * (eps + residual)), told, residual)


def in_units(program: Program, units: Units) -> Program:
    """The program in x^ and duals^."""
    Q, q, A, b, G, h = program
    columns, rows, bounds = units.columns, units.rows[: b.size], units.rows[b.size :]
    return (
        between(columns, Q, columns), columns * q, between(rows, A, columns), rows * b, between(bounds, G, columns),
        bounds * h,
    )  # fmt: skip


def into_units(at: Point, units: Units) -> Point:
    """(x^, y^, z^)."""
    x, y, z = at
    return x / units.columns, y / units.rows[: y.size], z / units.rows[y.size :]


def out_of_units(at: Point, units: Units) -> Point:
    """(x, y, z), the reverse."""
    x, y, z = at
    return units.columns * x, units.rows[: y.size] * y, units.rows[y.size :] * z


def is_regular(program: Program, reading: Reading) -> jax.Array:
    """Whether the derivative exists for certain: the active rows too are independent, with curvature between them."""
    Q, _, A, b, G, _ = program
    columns, rows = reading.units
    mask = jnp.concatenate([jnp.ones_like(b), reading.active.astype(b.dtype)])
    scaled = (mask * rows)[:, None] * jnp.concatenate([A, G]) * columns[None, :]
    return reading.certain & invertible(columns[:, None] * Q * columns[None, :], scaled, jnp.diag(1 - mask))


def invertible(curvature: jax.Array, rows: jax.Array, corner: jax.Array) -> jax.Array:
    """Whether no pivot of [[Q, C'], [C, -corner]] is rounding."""
    return no_pivot_lost(jnp.block([[curvature, rows.T], [rows, -corner]]))


def _size(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0)
