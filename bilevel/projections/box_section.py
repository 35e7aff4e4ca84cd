"""A box cut by one hyperplane, along the last axis; leading axes are a batch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, known, like, over_batches, valid


@compiles_once
def box_section(
    point: ArrayLike, lower: ArrayLike, upper: ArrayLike, weights: ArrayLike, total: ArrayLike
) -> jax.Array:
    """The nearest point of {p : lower <= p <= upper, <weights, p> = total}: clip(x - tau weights, lower, upper).

    Exact: <weights, clip(x - tau weights)> falls as tau grows, so bisection over the sorted 2n breaks finds the piece
    of tau. On that piece tau has a closed form, which is differentiated. ``point`` is (..., n); bounds (also infinite)
    and weights broadcast against it, ``total`` against (...). NaN where no point is feasible.

    >>> box_section(jnp.array([0.5, 3.0]), 0.0, 1.0, jnp.array([1.0, 1.0]), 1.25).tolist()
    [0.25, 1.0]
    """
    if jnp.shape(point)[-1] == 0:
        return as_point(point)
    return _box_section(*_broadcast(point, lower, upper, weights, total))


def box_section_distance(
    point: ArrayLike, lower: ArrayLike, upper: ArrayLike, weights: ArrayLike, total: ArrayLike
) -> jax.Array:
    """How far each coordinate of x - tau weights is from a bound, where the derivative of `box_section` jumps."""
    return _distance(*_broadcast(point, lower, upper, weights, total))


def _broadcast(
    point: ArrayLike, lower: ArrayLike, upper: ArrayLike, weights: ArrayLike, total: ArrayLike
) -> tuple[jax.Array, ...]:
    x = as_point(point)
    lower, upper, weights = (like(parameter, x) for parameter in (lower, upper, weights))
    shape = jnp.broadcast_shapes(*(array.shape for array in (x, lower, upper, weights)))
    return *(jnp.broadcast_to(array, shape) for array in (x, lower, upper, weights)), like(total, x)


@compiles_once
def capped_simplex(point: ArrayLike, upper: ArrayLike = 1.0, total: ArrayLike = 1.0) -> jax.Array:
    """The nearest point of {p : 0 <= p <= upper, sum p = total}; NaN where no point is feasible.

    >>> capped_simplex(jnp.array([0.5, 3.0, -1.0]), 1.0, 1.25).tolist()
    [0.25, 1.0, 0.0]
    """
    return box_section(point, 0.0, upper, 1.0, total)


def _one_section(x: jax.Array, lower: jax.Array, upper: jax.Array, weights: jax.Array, total: jax.Array) -> jax.Array:
    tau, below, above = jax.lax.stop_gradient(_inside_piece(x, lower, upper, weights, total))
    free = ~(below | above)
    moved = x - tau * weights  # of the size of the bounds, so that the sum meets the total wherever the point is
    at_bound = jnp.where(below, lower, jnp.where(above, upper, 0))
    free_weights = jnp.where(free, weights, 0)
    square = jnp.sum(free_weights**2)
    excess = jnp.sum(free_weights * jnp.where(free, moved, 0)) + jnp.sum(weights * at_bound) - total
    step = excess / jnp.where(square > 0, square, 1)
    inside = moved - step * weights
    rounding = jax.lax.stop_gradient(jnp.clip(inside, lower, upper) - inside)
    projected = jnp.where(free, inside + rounding, at_bound)
    feasible = _feasible(lower, upper, weights, total) & known(x, lower, upper, weights, total)
    return valid(feasible & _meets(projected, weights, total), projected, x, lower, upper, weights, total)


_box_section = over_batches(_one_section, "(n),(n),(n),(n),()->(n)")


def _one_distance(x: jax.Array, lower: jax.Array, upper: jax.Array, weights: jax.Array, total: jax.Array) -> jax.Array:
    tau, below, above = _inside_piece(x, lower, upper, weights, total)
    moved = x - tau * weights
    square = jnp.sum(jnp.where(below | above, 0, weights) ** 2)
    overshoot = jnp.sum(weights * jnp.clip(moved, lower, upper)) - total
    moved -= jnp.where(square > 0, overshoot / jnp.where(square > 0, square, 1), 0) * weights  # linear on the piece
    return jnp.minimum(jnp.abs(moved - lower), jnp.abs(moved - upper))


_distance = over_batches(_one_distance, "(n),(n),(n),(n),()->(n)")


def _inside_piece(
    x: jax.Array, lower: jax.Array, upper: jax.Array, weights: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A tau in the linear piece on which the sum meets ``total``, and which coordinates are below and above there.

    The coordinates are read from the piece and not from tau, because tau rounds to an end of a piece that is narrow
    beside the size of the point.
    """

    def overshoot(tau: jax.Array) -> jax.Array:
        return jnp.sum(weights * jnp.clip(x - tau * weights, lower, upper)) - total

    first, second = _meetings(x, lower, upper, weights)
    breaks = _breaks(first, second)

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, right = ends
        middle = (left + right) // 2
        falls = overshoot(breaks[middle]) >= 0
        return jnp.where(falls, middle, left), jnp.where(falls, right, middle)

    last = breaks.size - 1
    left, right = jax.lax.fori_loop(0, math.ceil(math.log2(last)) + 1, halve, (0, last))
    left, right = breaks[left], breaks[right]
    falling = jnp.where(weights < 0, second <= left, first >= right)  # at the upper bound on the piece
    rising = jnp.where(weights < 0, first >= right, second <= left)
    below = jnp.where(weights == 0, x <= lower, rising)
    above = jnp.where(weights == 0, x >= upper, falling)
    return left + 0.5 * (right - left), below, above & ~below


def _meetings(x: jax.Array, lower: jax.Array, upper: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The tau at which x - tau weights meets its first bound and its second; infinite for a weight of zero."""
    moves = weights != 0
    slope = jnp.where(moves, weights, 1)
    one, other = (jnp.where(moves, (x - bound) / slope, jnp.inf) for bound in (lower, upper))
    return jnp.minimum(one, other), jnp.maximum(one, other)


def _breaks(first: jax.Array, second: jax.Array) -> jax.Array:
    """All meetings, sorted, and one further point on either side."""
    breaks = jnp.concatenate([first, second])
    known = jnp.isfinite(breaks)
    breaks = jnp.sort(jnp.where(known, breaks, jnp.min(breaks, where=known, initial=0.0)))
    margin = 1 + jnp.abs(breaks)
    return jnp.concatenate([breaks[:1] - margin[:1], breaks, breaks[-1:] + margin[-1:]])


def _meets(projected: jax.Array, weights: jax.Array, total: jax.Array) -> jax.Array:
    """False for a point so far away that its rounding is wider than the bounds are apart."""
    parts = weights * projected
    size = jnp.sum(jnp.abs(parts)) + jnp.abs(total)
    return jnp.abs(jnp.sum(parts) - total) <= jnp.sqrt(jnp.finfo(projected.dtype).eps) * size


def _feasible(lower: jax.Array, upper: jax.Array, weights: jax.Array, total: jax.Array) -> jax.Array:
    ends = jnp.stack([weights * lower, weights * upper])
    ends = jnp.where(weights == 0, 0, ends)
    least, most = jnp.sum(jnp.min(ends, axis=0)), jnp.sum(jnp.max(ends, axis=0))
    size = jnp.sum(jnp.max(jnp.abs(jnp.where(jnp.isfinite(ends), ends, 0)), axis=0)) + jnp.abs(total)
    slack = 4 * float(jnp.finfo(lower.dtype).eps) * lower.size * size
    return jnp.all(lower <= upper) & (least - slack <= total) & (total <= most + slack)
