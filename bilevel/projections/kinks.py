"""How far a point is from where the derivative of a projection jumps: (point, *parameters) -> distances of any shape,
zero at a kink, infinity where nothing can jump. Points and parameters are arrays of one dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.kernels.arrays import norm, of_rows, over_batches, same_rank
from bilevel.kernels.qp import solve_qp
from bilevel.projections.box_section import box_section_distance
from bilevel.projections.exponential import exponential_cone_distance
from bilevel.projections.monotone import isotonic as nearest_monotone
from bilevel.projections.simplex import threshold
from bilevel.projections.transport import transport_distance


def box(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    x, lower, upper = same_rank(x, lower, upper)
    return jnp.minimum(jnp.abs(x - lower), jnp.abs(x - upper))


def non_negative(x: jax.Array) -> jax.Array:
    return jnp.abs(x)


def hypercube(x: jax.Array, side: jax.Array) -> jax.Array:
    x, side = same_rank(x, side)
    return jnp.minimum(jnp.abs(x), jnp.abs(x - side))


def linf_ball(x: jax.Array, radius: jax.Array) -> jax.Array:
    x, radius = same_rank(x, radius)
    return jnp.abs(jnp.abs(x) - radius)


def simplex(x: jax.Array, total: jax.Array) -> jax.Array:
    """Distances to joining or leaving the support."""
    return jnp.abs(x - threshold(x, of_rows(total, x)))


def sparse_simplex(x: jax.Array, max_nonzeros: int, total: jax.Array) -> jax.Array:
    """Distances of the largest entries as for the simplex, and of the other ones to taking the place of a largest
    entry."""
    largest, places = jax.lax.top_k(x, max_nonzeros)
    level = threshold(largest, of_rows(total, largest))
    entry = jnp.maximum(level, largest[..., -1:])
    chosen = jnp.put_along_axis(jnp.zeros_like(x, bool), places, True, axis=-1, inplace=False)
    return jnp.where(chosen, jnp.abs(x - level), entry - x)


def box_section(x: jax.Array, lower: jax.Array, upper: jax.Array, weights: jax.Array, total: jax.Array) -> jax.Array:
    return box_section_distance(x, lower, upper, weights, total)


def capped_simplex(x: jax.Array, upper: jax.Array, total: jax.Array) -> jax.Array:
    return box_section(x, jnp.zeros_like(x), upper, jnp.ones_like(x), total)


def l1_ball(x: jax.Array, radius: jax.Array) -> jax.Array:
    """Distances of a vector to the sphere and, outside of it, to joining or leaving the support."""
    size = jnp.abs(x)
    excess = jnp.sum(size) - radius
    support = jnp.where(excess > 0, simplex(size, radius), jnp.inf)
    return jnp.append(support, jnp.abs(excess) / max(x.size, 1) ** 0.5)


def l1_sphere(x: jax.Array, radius: jax.Array) -> jax.Array:
    """Distances of a vector to joining or leaving the support and, in the support, to a change of sign."""
    size = jnp.abs(x)
    level = threshold(size, radius)
    return jnp.where(size > level, jnp.minimum(size, size - level), level - size)


def l2_ball(x: jax.Array, radius: jax.Array) -> jax.Array:
    return jnp.abs(norm(x) - radius)


def l2_sphere(x: jax.Array, radius: jax.Array) -> jax.Array:
    """The distance of a vector to the centre."""
    return norm(x)


def halfspace(x: jax.Array, normal: jax.Array, offset: jax.Array) -> jax.Array:
    normal = jnp.broadcast_to(normal, x.shape)
    length = norm(normal)
    return jnp.where(length == 0, jnp.inf, jnp.abs(normal @ x - offset) / jnp.where(length == 0, 1, length))


def polyhedron(x: jax.Array, A: jax.Array, b: jax.Array, G: jax.Array, h: jax.Array) -> jax.Array:
    """The distance of each inequality: its slack or its multiplier. Zero for all active rows where they depend on each
    other or on the equations, because it is then not known which of them stay active."""
    return over_batches(_one_polyhedron, "(n),(k,n),(k),(m,n),(m)->(m)")(x, A, b, G, h)


def _one_polyhedron(x: jax.Array, A: jax.Array, b: jax.Array, G: jax.Array, h: jax.Array) -> jax.Array:
    solution = solve_qp(jnp.eye(x.size, dtype=x.dtype), -x, A, b, G, h)
    lengths = norm(G)
    scale = jnp.where(lengths == 0, 1, lengths)
    slack, push = (h - G @ solution.x) / scale, solution.z * scale
    distance = jnp.where(lengths == 0, jnp.inf, jnp.maximum(slack, push))
    size = jnp.max(jnp.abs(solution.x), initial=0) + jnp.max(jnp.abs(x), initial=0)  # a far x rounds more
    rounding = 1e3 * jnp.finfo(x.dtype).eps * size
    tight = (slack <= rounding) & (lengths > 0)
    active = jnp.concatenate([A, tight[:, None] * G / scale[:, None]])
    count = jnp.sum(tight) + jnp.linalg.matrix_rank(A)
    dependent = jnp.linalg.matrix_rank(active, rtol=1e-8) < count
    return jnp.where(tight & dependent, 0, distance)


def transport(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return transport_distance(x, rows, columns)


def birkhoff(x: jax.Array) -> jax.Array:
    return transport(x, jnp.ones(x.shape[-2:-1], x.dtype), jnp.ones(x.shape[-1:], x.dtype))


def isotonic(x: jax.Array) -> jax.Array:
    """One for each neighbouring pair: its gap, or the multiplier that keeps it equal."""
    result = nearest_monotone(x)
    multiplier = jnp.abs(jnp.cumsum(x - result, axis=-1)[..., :-1])
    return jnp.maximum(jnp.diff(result, axis=-1), multiplier)


def second_order_cone(x: jax.Array) -> jax.Array:
    return jnp.abs(norm(x[..., 1:]) - jnp.abs(x[..., 0])) / 2**0.5


def psd_cone(x: jax.Array) -> jax.Array:
    return jnp.abs(jnp.linalg.eigvalsh(0.5 * (x + jnp.swapaxes(x, -1, -2))))


def exponential_cone(x: jax.Array) -> jax.Array:
    return exponential_cone_distance(x)
