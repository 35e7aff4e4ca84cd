"""The derivative of the projection on a cone, D = V' diag(values) V, by products with its eigenvectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.kernels.arrays import norm, unit

HALF = float(np.sqrt(0.5))


class Spectrum(NamedTuple):
    """A symmetric matrix V' diag(values) V with an orthogonal V. Both maps work along the last axis."""

    values: jax.Array  # (m,)
    forward: Callable[[jax.Array], jax.Array]  # V
    backward: Callable[[jax.Array], jax.Array]  # V'


def of_rows(values: jax.Array) -> Spectrum:
    """The spectrum of a diagonal matrix.

    >>> of_rows(jnp.array([1.0, 0.0])).forward(jnp.array([3.0, 4.0])).tolist()
    [3.0, 4.0]
    """
    return Spectrum(values, lambda w: w, lambda w: w)


def of_second_order(point: jax.Array) -> Spectrum:
    """Of the projection of (t, z) on the second-order cone.

    Between the cone and its negative, with r = ||z||, the eigenvalue is 1 along (1, z / r), 0 along (1, -z / r), and
    (1 + t / r) / 2 across. V reflects z to the first axis (Householder) and turns that axis and t by 45 degrees.

    >>> at = of_second_order(jnp.array([0.0, 3.0, 4.0]))
    >>> at.values.tolist(), bool(jnp.allclose(at.forward(jnp.array([1.0, 0.6, 0.8])), jnp.array([2**0.5, 0, 0])))
    ([1.0, 0.0, 0.5], True)
    """
    t, z = point[0], point[1:]
    if not z.size:
        return of_rows((point > 0).astype(point.dtype))
    length = norm(z)
    between, inside = length > jnp.abs(t), (t >= length).astype(point.dtype)
    across = jnp.where(between, (1 + t / jnp.where(between, length, 1)) / 2, inside)
    ends = jnp.stack([jnp.where(between, 1, inside), jnp.where(between, 0, inside)])
    axis = unit(jnp.where(length > 0, z, 1))
    sign = jnp.where(axis[0] < 0, -1, 1).astype(point.dtype)
    mirror = axis.at[0].add(sign)  # takes z / r to -sign times the first axis
    strength = 2 / (mirror @ mirror)

    def reflected(z: jax.Array) -> jax.Array:
        return z - (strength * (z @ mirror))[..., None] * mirror

    def forward(w: jax.Array) -> jax.Array:
        t, z = w[..., :1], reflected(w[..., 1:])
        along = -sign * z[..., :1]
        return jnp.concatenate([HALF * (t + along), HALF * (t - along), z[..., 1:]], axis=-1)

    def backward(w: jax.Array) -> jax.Array:
        t, along = HALF * (w[..., :1] + w[..., 1:2]), HALF * (w[..., :1] - w[..., 1:2])
        z = reflected(jnp.concatenate([-sign * along, w[..., 2:]], axis=-1))
        return jnp.concatenate([t, z], axis=-1)

    return Spectrum(jnp.concatenate([ends, jnp.broadcast_to(across, (z.size - 1,))]), forward, backward)


def joined(parts: list[Spectrum]) -> Spectrum:
    """Of a block-diagonal matrix.

    >>> joined([of_rows(jnp.ones(1)), of_rows(jnp.zeros(1))]).values.tolist()
    [1.0, 0.0]
    """
    ends = np.cumsum([part.values.size for part in parts])[:-1]

    def each(w: jax.Array, maps: list[Callable]) -> jax.Array:
        pieces = [turn(piece) for turn, piece in zip(maps, jnp.split(w, ends, axis=-1), strict=True)]
        return jnp.concatenate(pieces, axis=-1)

    return Spectrum(
        jnp.concatenate([part.values for part in parts]),
        lambda w: each(w, [part.forward for part in parts]),
        lambda w: each(w, [part.backward for part in parts]),
    )
