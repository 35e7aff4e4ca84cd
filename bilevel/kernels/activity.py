"""Which inequalities hold a solution, judged in units that rescaling a row, an unknown or the objective does not
change."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SWEEPS = 24  # each halves the logarithms of the scales, so 2^-24 of their range is left
DIGITS = 1e3  # a strength below so many units of rounding, or multiples of the residual, is zero


class Units(NamedTuple):
    """x = columns * x^, duals = rows * duals^: the matrices are columns Q columns and rows C columns."""

    columns: jax.Array  # (n,)
    rows: jax.Array  # (k,)


def units_of(curvature: jax.Array, rows: jax.Array, owner: np.ndarray | None = None) -> Units:
    """Units in which the nonzero entries of [[Q, C'], [C, 0]] have a geometric mean near 1.

    Their logarithms u minimise the sum of (log |K_ij| + u_i + u_j)^2. Multiplying a row, a column or the objective
    moves u by exactly the logarithm of the factor; with the largest entry of a row as its unit, that entry would hide
    the others. ``owner`` numbers the groups of rows that share one unit, as the rows of a cone do. The units are powers
    of two, so that scaling rounds nothing. Source: Curtis and Reid, On the automatic scaling of matrices for Gaussian
    elimination, 1972.

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
    """The sizes that multipliers and slacks are compared with."""

    forces: jax.Array
    point: jax.Array


def sizes_of(forces: jax.Array, point: jax.Array, slack: jax.Array, curvature: jax.Array) -> Sizes:
    """Sizes of the gradients and of the point, in `Units`, neither of them rounding. Forces that vanish at an interior
    solution are replaced by curvature times x, and a point that vanishes by the distance that the forces would move
    it."""
    half = jnp.finfo(forces.dtype).eps ** 0.5
    moved = half * forces / jnp.where(curvature > 0, curvature, jnp.inf)
    largest = jnp.max(jnp.abs(slack), initial=0)
    point = jnp.maximum(jnp.maximum(point, half * largest), moved)
    point = jnp.where(point > 0, point, 1)
    forces = jnp.maximum(forces, half * curvature * point)
    return Sizes(jnp.where(forces > 0, forces, 1), point)


def activity(dual: jax.Array, slack: jax.Array, sizes: Sizes) -> Activity:
    """Compares the multiplier, as a share of the forces, with the slack, as a share of the size of x, both in `Units`.

    >>> activity(jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0]), Sizes(jnp.ones(()), jnp.ones(()))).active.tolist()
    [True, False]
    """
    push, gap = dual / sizes.forces, slack / (sizes.point + jnp.abs(slack))
    return Activity((push > gap) & (push > 0), jnp.maximum(push, gap))


class Reading(NamedTuple):
    """What the derivative of a program needs beside the solution."""

    active: jax.Array
    units: Units
    certain: jax.Array  # whether every multiplier or slack exceeds the doubt that rounding and the residual leave


def read_program(program: tuple[jax.Array, ...], at: tuple[jax.Array, jax.Array, jax.Array]) -> Reading:
    """The reading of the solution (x, y, z) of the program (Q, q, A, b, G, h)."""
    Q, q, A, b, G, h = program
    x, y, z = at
    C, known = jnp.concatenate([A, G]), jnp.concatenate([b, h])
    columns, rows = units = units_of(Q, C)
    parts = columns[None, :] * jnp.stack([Q @ x, q, A.T @ y, G.T @ z])
    slack = rows * (known - C @ x)
    gap, dual = slack[y.size :], z / rows[y.size :]
    sizes = sizes_of(_size(parts), _size(x / columns), gap, _size(columns[:, None] * Q * columns[None, :]))
    active, strength = activity(dual, gap, sizes)
    unmet = (_size(jnp.where(active, gap, jnp.minimum(gap, 0))), _size(slack[: y.size]))
    unbalanced = (_size(jnp.where(active, 0, dual)), _size(jnp.sum(parts, axis=0)))
    residual = jnp.maximum(jnp.maximum(*unmet) / sizes.point, jnp.maximum(*unbalanced) / sizes.forces)
    return Reading(active, units, jnp.all(strength > DIGITS * (jnp.finfo(x.dtype).eps + residual)))


def is_regular(program: tuple[jax.Array, ...], reading: Reading) -> jax.Array:
    """Whether the derivative exists for certain: the active rows too are independent, with curvature between them."""
    Q, _, A, b, G, _ = program
    columns, rows = reading.units
    mask = jnp.concatenate([jnp.ones_like(b), reading.active.astype(b.dtype)])
    scaled = (mask * rows)[:, None] * jnp.concatenate([A, G]) * columns[None, :]
    return reading.certain & invertible(columns[:, None] * Q * columns[None, :], scaled, jnp.diag(1 - mask))


def invertible(curvature: jax.Array, rows: jax.Array, corner: jax.Array) -> jax.Array:
    """Whether no pivot of [[Q, C'], [C, -corner]] is rounding."""
    pivots = jnp.abs(jnp.diagonal(jax.scipy.linalg.lu_factor(jnp.block([[curvature, rows.T], [rows, -corner]]))[0]))
    return jnp.min(pivots, initial=jnp.inf) > jnp.finfo(rows.dtype).eps ** 0.625 * jnp.max(pivots, initial=0)


def _size(x: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(x), initial=0)
