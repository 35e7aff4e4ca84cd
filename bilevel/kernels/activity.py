"""Which inequalities hold a solution, read in units in which a row, an unknown or the objective may have any size."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SWEEPS = 24  # each halves what is left of the logarithms: 2^-24 of any range of scales
DIGITS = 1e3  # units of rounding, and multiples of the residual, below which a strength is no strength


class Units(NamedTuple):
    """x = columns * x^, duals = rows * duals^: the matrices are columns Q columns and rows C columns."""

    columns: jax.Array  # (n,)
    rows: jax.Array  # (k,)


def units_of(curvature: jax.Array, rows: jax.Array, owner: np.ndarray | None = None) -> Units:
    """Units in which the entries of [[Q, C'], [C, 0]] that are not zero are near 1 in the geometric mean.

    min over u of the sum of (log |K_ij| + u_i + u_j)^2: multiplying rows, columns or the objective moves u by just
    that, whereas the largest entry of a row or column may hide the others. ``owner`` numbers the groups of rows that
    share one unit, as those of a cone do. Powers of two, so that scaling rounds nothing.
    Source: Curtis and Reid, On the automatic scaling of matrices for Gaussian elimination, 1972.

    >>> columns, rows = units_of(jnp.zeros((2, 2)), jnp.array([[1.0, 64.0], [4.0, 256.0]]))
    >>> (rows[:, None] * jnp.array([[1.0, 64.0], [4.0, 256.0]]) * columns).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    count, n = rows.shape
    matrix = jnp.block([[curvature, rows.T], [rows, jnp.zeros((count, count), rows.dtype)]])
    present = ((matrix != 0) & jnp.isfinite(matrix)).astype(rows.dtype)
    logs = jnp.sum(jnp.where(present > 0, jnp.log2(jnp.abs(jnp.where(present > 0, matrix, 1))), 0), axis=1)
    entries = jnp.maximum(jnp.sum(present, axis=1), 1)

    def sweep(_: int, u: jax.Array) -> jax.Array:
        u = 0.5 * (u - (logs + present @ u) / entries)
        if owner is None:
            return u
        total = jax.ops.segment_sum(u[n:], owner, int(owner.max(initial=0)) + 1)
        return jnp.concatenate([u[:n], (total / np.maximum(np.bincount(owner), 1))[owner]])

    u = jnp.exp2(jnp.round(jax.lax.fori_loop(0, SWEEPS, sweep, jnp.zeros_like(logs))))
    return Units(u[:n], u[n:])


class Activity(NamedTuple):
    """The inequalities that hold a solution."""

    active: jax.Array  # (m,) whether the multiplier outweighs the slack
    strength: jax.Array  # (m,) max(share of the forces, share of the size of x): 0 where strict complementarity fails


class Sizes(NamedTuple):
    """What multipliers and slacks are compared with."""

    forces: jax.Array
    point: jax.Array


def sizes_of(forces: jax.Array, point: jax.Array, slack: jax.Array, curvature: jax.Array) -> Sizes:
    """Sizes of the gradients and of the point, in `Units`, neither of which is rounding: forces that vanish at an
    interior solution are held against curvature times x, a point that vanishes against what the forces would move."""
    half = jnp.finfo(forces.dtype).eps ** 0.5
    moved = half * forces / jnp.where(curvature > 0, curvature, jnp.inf)
    largest = jnp.max(jnp.abs(slack), initial=0)
    point = jnp.maximum(jnp.maximum(point, half * largest), moved)
    point = jnp.where(point > 0, point, 1)
    forces = jnp.maximum(forces, half * curvature * point)
    return Sizes(jnp.where(forces > 0, forces, 1), point)


def activity(dual: jax.Array, slack: jax.Array, sizes: Sizes) -> Activity:
    """The multiplier as a share of the forces against the slack as a share of what it is measured in, both in `Units`.

    >>> activity(jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0]), Sizes(jnp.ones(()), jnp.ones(()))).active.tolist()
    [True, False]
    """
    push, gap = dual / sizes.forces, slack / (sizes.point + jnp.abs(slack))
    return Activity((push > gap) & (push > 0), jnp.maximum(push, gap))


class Reading(NamedTuple):
    """What the derivative of a program needs to know of its solution, beside the solution."""

    active: jax.Array
    units: Units
    regular: jax.Array  # whether the derivative exists and `active` is certain


def read_program(program: tuple[jax.Array, ...], at: tuple[jax.Array, jax.Array, jax.Array]) -> Reading:
    """Of the solution (x, y, z) of (Q, q, A, b, G, h); regular where every multiplier or slack exceeds what rounding
    and the residual leave in doubt, the active rows are independent and the curvature between them is positive."""
    Q, q, A, b, G, h = program
    x, y, z = at
    C, known, duals = jnp.concatenate([A, G]), jnp.concatenate([b, h]), jnp.concatenate([y, z])
    columns, rows = units = units_of(Q, C)
    scaled_Q, scaled_C = columns[:, None] * Q * columns, rows[:, None] * C * columns
    parts = jnp.stack([Q @ x, q, A.T @ y, G.T @ z])
    slack = rows * (known - C @ x)
    sizes = sizes_of(_size(columns * parts), _size(x / columns), slack[y.size :], _size(scaled_Q))
    active, strength = activity(duals[y.size :] / rows[y.size :], slack[y.size :], sizes)
    violated = jnp.maximum(0, jnp.where(active, jnp.abs(slack[y.size :]), -slack[y.size :])) / sizes.point
    unused = jnp.where(active, 0, jnp.abs(duals[y.size :] / rows[y.size :])) / sizes.forces
    misses = (_size(violated), _size(unused), _size(slack[: y.size]) / sizes.point)
    residual = jnp.max(jnp.stack([_size(columns * jnp.sum(parts, axis=0)) / sizes.forces, *misses]))
    doubt = DIGITS * (jnp.finfo(x.dtype).eps + residual)
    mask = jnp.concatenate([jnp.ones_like(y), active.astype(y.dtype)])
    regular = invertible(scaled_Q, mask[:, None] * scaled_C, jnp.diag(1 - mask))
    return Reading(active, units, jnp.all(strength > doubt) & regular)


def invertible(curvature: jax.Array, rows: jax.Array, corner: jax.Array) -> jax.Array:
    """Whether no pivot of [[Q, C'], [C, -corner]] is rounding."""
    pivots = jnp.abs(jnp.diagonal(jax.scipy.linalg.lu_factor(jnp.block([[curvature, rows.T], [rows, -corner]]))[0]))
    return jnp.min(pivots, initial=jnp.inf) > jnp.finfo(rows.dtype).eps ** 0.625 * jnp.max(pivots, initial=0)


def _size(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0)
