"""Rows and columns of a program brought to size 1, because the tolerances of a solver refer to that size."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.kernels.conic import Data, Units
from bilevel.kernels.second_orders import SecondOrders

SWEEPS = 5  # each takes the square root of the remaining ratios: 2^-5 of their logarithms is left


class Scales(NamedTuple):
    """x = columns * x^, y = rows * y^ / cost, z = bounds * z^ / cost, s = s^ / bounds."""

    columns: jax.Array
    rows: jax.Array
    bounds: jax.Array
    cost: jax.Array


def equilibrate(data: Data, cones: SecondOrders) -> tuple[Data, Scales]:
    """The program with rows and columns of largest entry about 1; a cone has one scale for all of its rows.

    Source: Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices, 2001.
    """
    P, q, E, e, G, h = data
    size_P, size_E, size_G = jnp.abs(P), jnp.abs(E), jnp.abs(G)

    def sweep(_: int, scales: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        columns, rows, bounds = scales
        down = jnp.maximum(_largest(size_P.T, columns), _largest(size_E.T, rows))
        down = columns * jnp.maximum(down, _largest(size_G.T, bounds))
        across_E, across_G = rows * _largest(size_E, columns), bounds * _largest(size_G, columns)
        columns, rows = columns * _inverse_root(down), rows * _inverse_root(across_E)
        return columns, rows, bounds * _inverse_root(_shared(cones, across_G))

    first = jnp.ones_like(q), jnp.ones_like(e), jnp.ones_like(h)
    columns, rows, bounds = jax.lax.fori_loop(0, SWEEPS, sweep, first)  # a loop is compiled once
    scaled_P, scaled_q = columns[:, None] * P * columns[None, :], columns * q
    size = jnp.maximum(jnp.max(jnp.abs(scaled_P), initial=0), jnp.max(jnp.abs(scaled_q), initial=0))
    cost = 1 / jnp.where(size > 0, size, 1)
    scaled_E, scaled_G = rows[:, None] * E * columns[None, :], bounds[:, None] * G * columns[None, :]
    scaled = Data(cost * scaled_P, cost * scaled_q, scaled_E, rows * e, scaled_G, bounds * h)
    return scaled, Scales(columns, rows, bounds, cost)


def units(data: Data, cones: SecondOrders) -> Units:
    """The units of a proof; they depend on [E; G] alone because the proof does."""
    bare = data._replace(P=jnp.zeros_like(data.P), q=jnp.zeros_like(data.q))
    return Units(*equilibrate(bare, cones)[1][:3])


def _largest(matrix: jax.Array, scale: jax.Array) -> jax.Array:
    """The largest entry of each row after its columns are scaled."""
    return jnp.max(matrix * scale[None, :], axis=1, initial=0)


def _inverse_root(size: jax.Array) -> jax.Array:
    return 1 / jnp.sqrt(jnp.where(size > 0, size, 1))


def _shared(cones: SecondOrders, sizes: jax.Array) -> jax.Array:
    if cones.orthant:
        return sizes
    largest = jax.ops.segment_max(sizes, cones.owner, len(cones.lengths), indices_are_sorted=True)
    return cones.spread(largest)
