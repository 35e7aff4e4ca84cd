"""The extremes of a symmetric map of many unknowns and an approximate solution of its system, by a few products."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.signs import signs
from bilevel.foundation.typing import LinearMap

PRODUCTS = 12  # steps of Lanczos' method: finds -0.1 beside a thousand curvatures from 0 to 1
ROUNDS = 4  # rounds of scaling, each of which leaves the square root of the ratios of scale
BAD = 30.0  # below this ratio of scales the coordinates are not scaled


class Extremes(NamedTuple):
    """What a look at K found. The fields are relative to the largest eigenvalue in absolute value, and flat vectors."""

    least: jax.Array  # the smallest eigenvalue where it is negative, else about 0
    direction: jax.Array  # along which it occurs
    step: jax.Array  # y with K y = rhs, as far as the products reach; the directions where K is rounding are left out


class _Carry(NamedTuple):
    number: jax.Array
    scale: jax.Array
    largest: jax.Array
    basis: jax.Array
    images: jax.Array
    vector: jax.Array


def by_matrix(matrix: jax.Array, rhs: jax.Array) -> Extremes:
    """The look by all eigenvalues of the matrix."""
    values, vectors = eigenpairs(matrix)
    largest = jnp.max(jnp.abs(values))
    diagonal = jnp.abs(jnp.diagonal(matrix))
    # Scaled, because where columns have different units rounding of large eigenvalues hides the small ones.
    scale = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1)), 0)
    step = scale * _inverted(eigenpairs(scale[:, None] * matrix * scale[None, :]), scale * rhs)
    return Extremes(jnp.minimum(values[0], 0) / jnp.where(largest > 0, largest, 1), vectors[:, 0], step)


def by_products(product: LinearMap, rhs: jax.Array, uneven: jax.Array) -> Extremes:
    """The look by Lanczos' method from random signs. Where the coordinates are ``uneven`` in their units, the map is
    scaled and the vector has a part along ``rhs``. Source: Lanczos, 1950; orthogonalised in full.
    Ruiz, 2001, for the scales."""
    tiny, random = jnp.finfo(rhs.dtype).tiny, signs(rhs.shape, rhs.dtype)

    def first(scale: jax.Array) -> jax.Array:
        towards = scale * rhs
        share = jnp.linalg.norm(random) / jnp.maximum(jnp.linalg.norm(towards), tiny)
        return random + jnp.where(uneven, share * towards, 0)

    # One loop for both, because the product inside is compiled once.
    def body(carry: _Carry) -> _Carry:
        scaling, place = carry.number < ROUNDS, jnp.maximum(carry.number - ROUNDS, 0)
        ratio = jnp.max(carry.scale) / jnp.min(carry.scale)
        scale = jnp.where(scaling | (ratio > BAD), carry.scale, 1)
        vector = jnp.where(carry.number == ROUNDS, first(scale), carry.vector)
        vector = vector / jnp.maximum(jnp.linalg.norm(vector), tiny)
        probe = jnp.where(scaling, signs(rhs.shape, rhs.dtype, carry.number + 1), vector)
        image = scale * product(scale * probe)
        size = jnp.linalg.norm(image) / jnp.linalg.norm(probe)
        length = jnp.where(scaling & (image != 0), jnp.abs(image), 1)
        basis = jnp.where(scaling, carry.basis, carry.basis.at[place].set(vector))
        images = jnp.where(scaling, carry.images, carry.images.at[place].set(image))
        rest = image
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        left = jnp.linalg.norm(rest) > 100 * jnp.finfo(rhs.dtype).eps * jnp.linalg.norm(image)
        rest = jnp.where(left, rest, 0)  # zero: the space is invariant, and all is known
        largest = jnp.where(carry.number == 0, size, carry.largest)
        return _Carry(carry.number + 1, scale / jnp.sqrt(length), largest, basis, images, rest)

    empty = jnp.zeros((PRODUCTS, rhs.size), rhs.dtype)
    begin = jnp.where(uneven, 0, ROUNDS)
    start = _Carry(begin, jnp.ones_like(rhs), jnp.zeros((), rhs.dtype), empty, empty, random)
    end = jax.lax.while_loop(lambda carry: carry.number < ROUNDS + PRODUCTS, body, start)
    return _read(end, rhs)


def _read(carry: _Carry, rhs: jax.Array) -> Extremes:
    scale, basis = carry.scale, carry.basis
    projected = basis @ carry.images.T
    pairs = values, vectors = eigenpairs(projected)
    direction = scale * (basis.T @ vectors[:, 0])
    # In the units of the params, because scales lift what is rounding there.
    square = jnp.sum(direction**2)
    least = jnp.minimum(values[0], 0) / jnp.where(square > 0, square, 1)
    largest = jnp.where(jnp.all(scale == 1), jnp.max(jnp.abs(values)), carry.largest)
    step = scale * (basis.T @ _inverted(pairs, basis @ (scale * rhs)))
    return Extremes(least / jnp.where(largest > 0, largest, 1), direction, step)


def _inverted(pairs: tuple[jax.Array, jax.Array], rhs: jax.Array) -> jax.Array:
    """y with A y = rhs on the eigenvectors of A whose eigenvalues are positive beyond rounding."""
    values, vectors = pairs
    sound = values > jnp.finfo(rhs.dtype).eps ** 0.5 * jnp.max(jnp.abs(values))
    return vectors @ jnp.where(sound, (vectors.T @ rhs) / jnp.where(sound, values, 1), 0)


def eigenpairs(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues of a symmetric matrix, in float32 at least, because LAPACK has no narrower types."""
    values, vectors = jnp.linalg.eigh(matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32)))
    return values.astype(matrix.dtype), vectors.astype(matrix.dtype)
