"""Sequences that are constant on runs; sequential algorithms find the runs in linear time."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp


def starts_to_runs(starts: jax.Array) -> jax.Array:
    """The number of the run each entry belongs to, from a mask of the entries that start one."""
    return jnp.cumsum(starts.at[0].set(False).astype(jnp.int32))


def run_means(x: jax.Array, runs: jax.Array) -> jax.Array:
    """The mean of x over the run of each entry: linear in x, and so is its derivative."""
    return run_sums(x, runs)[runs] / run_sums(jnp.ones_like(x), runs)[runs]


def run_sums(x: jax.Array, runs: jax.Array) -> jax.Array:
    """The sum of x over each run, padded with zeros to the length of x."""
    return jax.ops.segment_sum(x, runs, num_segments=x.size)


class _Pools(NamedTuple):
    """A stack of pools of adjacent entries, the top one at ``last``."""

    sums: jax.Array
    sizes: jax.Array
    last: jax.Array


def monotone_runs(x: jax.Array) -> jax.Array:
    """The runs on which the nearest non-decreasing sequence to x is constant, by pooling adjacent violators.

    Reference: Ayer et al., An empirical distribution function for sampling with incomplete information, 1955.

    >>> monotone_runs(jnp.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [0, 1, 1, 2]
    """
    shifted = x - jnp.mean(jnp.where(jnp.isfinite(x), x, 0))

    def violates(pools: _Pools) -> jax.Array:
        below = jnp.maximum(pools.last - 1, 0)
        falls = pools.sums[below] * pools.sizes[pools.last] > pools.sums[pools.last] * pools.sizes[below]
        return (pools.last > 0) & falls

    def merge(pools: _Pools) -> _Pools:
        last = pools.last
        sums = pools.sums.at[last - 1].add(pools.sums[last])
        return _Pools(sums, pools.sizes.at[last - 1].add(pools.sizes[last]), last - 1)

    def push(i: jax.Array, pools: _Pools) -> _Pools:
        last = pools.last + 1
        pools = _Pools(pools.sums.at[last].set(shifted[i]), pools.sizes.at[last].set(1), last)
        return jax.lax.while_loop(violates, merge, pools)

    empty = _Pools(jnp.zeros_like(x), jnp.zeros_like(x), jnp.asarray(-1))
    pools = jax.lax.fori_loop(0, x.size, push, empty)
    count = jnp.arange(x.size)
    ends = jnp.cumsum(jnp.where(count <= pools.last, pools.sizes, 0)).astype(jnp.int32)
    starts = jnp.zeros(x.size, bool).at[jnp.where(count < pools.last, ends, x.size)].set(True, mode="drop")
    return starts_to_runs(starts)


class _Pieces(NamedTuple):
    """A piecewise linear increasing function: slope and intercept at either end, and the changes at the knots between.
    The knots in use are those from ``first`` to ``last``."""

    knots: jax.Array
    slopes: jax.Array
    intercepts: jax.Array
    first: jax.Array
    last: jax.Array


class _Line(NamedTuple):
    slope: jax.Array
    intercept: jax.Array


_Pair: TypeAlias = tuple[jax.Array, jax.Array]
_Cut: TypeAlias = tuple[_Pieces, _Line]  # the function between the knots, and its line at the end that is being cut
_Carry: TypeAlias = tuple[_Pieces, _Line, _Line]


def total_variation_jumps(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The signs of p_{i+1} - p_i, 0 where equal, at the minimiser of 1/2 ||p - x||^2 + sum_i weights_i |p_{i+1} - p_i|.

    Dynamic programming over the derivative of the cost to come, which is piecewise linear and is clipped to
    [-weights_i, weights_i] from one entry to the next. Reference: Johnson, A dynamic programming algorithm for the
    fused lasso and L0-segmentation, 2013.

    >>> total_variation_jumps(jnp.array([0.0, 0.5, 5.0]), jnp.array([1.0, 1.0])).tolist()
    [0, 1]
    """
    n = x.size
    zeros = jnp.zeros(2 * n, x.dtype)
    pieces = _Pieces(zeros, zeros, zeros, jnp.asarray(n), jnp.asarray(n - 1))

    def forward(carry: _Carry, data: _Pair) -> tuple[_Carry, _Pair]:
        pieces, left, right = carry
        value, weight = data
        left = _Line(left.slope + 1, left.intercept - value)
        right = _Line(right.slope + 1, right.intercept - value)
        pieces, low = _cut_left(pieces, left, -weight)
        pieces, high = _cut_right(pieces, right, weight)
        return (pieces, _Line(0 * weight, -weight), _Line(0 * weight, weight)), (low, high)

    level = _Line(jnp.zeros_like(x[0]), jnp.zeros_like(x[0]))
    (pieces, left, _), (lows, highs) = jax.lax.scan(forward, (pieces, level, level), (x[:-1], weights))
    _, last = _cut_left(pieces, _Line(left.slope + 1, left.intercept - x[-1]), jnp.zeros_like(x[0]))

    def backward(following: jax.Array, interval: _Pair) -> _Pair:
        low, high = interval
        jump = (following > high).astype(jnp.int32) - (following < low).astype(jnp.int32)
        return jnp.clip(following, low, high), jump

    return jax.lax.scan(backward, last, (lows, highs), reverse=True)[1]


def _cut_left(pieces: _Pieces, line: _Line, level: jax.Array) -> tuple[_Pieces, jax.Array]:
    """Replaces the function by ``level`` to the left of the place where it reaches that level; returns the place,
    too."""

    def below(state: _Cut) -> jax.Array:
        pieces, line = state
        return (pieces.first <= pieces.last) & (line.slope * pieces.knots[pieces.first] + line.intercept < level)

    def drop(state: _Cut) -> _Cut:
        pieces, line = state
        slope = line.slope + pieces.slopes[pieces.first]
        intercept = line.intercept + pieces.intercepts[pieces.first]
        return pieces._replace(first=pieces.first + 1), _Line(slope, intercept)

    pieces, line = jax.lax.while_loop(below, drop, (pieces, line))
    place = (level - line.intercept) / line.slope
    pieces = pieces._replace(first=pieces.first - 1)
    return _put(pieces, pieces.first, place, line.slope, line.intercept - level), place


def _cut_right(pieces: _Pieces, line: _Line, level: jax.Array) -> tuple[_Pieces, jax.Array]:
    """Replaces the function by ``level`` to the right of the place where it reaches that level.

    The first knot is the cut to the left. It stays even if the cut to the right is at the same place, as for a weight
    of zero.
    """

    def above(state: _Cut) -> jax.Array:
        pieces, line = state
        return (pieces.last > pieces.first) & (line.slope * pieces.knots[pieces.last] + line.intercept > level)

    def drop(state: _Cut) -> _Cut:
        pieces, line = state
        slope = line.slope - pieces.slopes[pieces.last]
        intercept = line.intercept - pieces.intercepts[pieces.last]
        return pieces._replace(last=pieces.last - 1), _Line(slope, intercept)

    pieces, line = jax.lax.while_loop(above, drop, (pieces, line))
    place = (level - line.intercept) / line.slope
    pieces = pieces._replace(last=pieces.last + 1)
    return _put(pieces, pieces.last, place, -line.slope, level - line.intercept), place


def _put(pieces: _Pieces, index: jax.Array, knot: jax.Array, slope: jax.Array, intercept: jax.Array) -> _Pieces:
    return pieces._replace(
        knots=pieces.knots.at[index].set(knot),
        slopes=pieces.slopes.at[index].set(slope),
        intercepts=pieces.intercepts.at[index].set(intercept),
    )
