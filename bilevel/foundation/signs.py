"""Signs that look random, without a random generator, which takes ten times as long to compile."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import PyTree


def signs(shape: tuple[int, ...], dtype: jnp.dtype, number: int | jax.Array = 0) -> jax.Array:
    """1 or -1 for each entry: a bit of a hash of its index and ``number``. Source: the finaliser of MurmurHash3
    (Appleby).

    >>> signs((2, 4), jnp.float32).tolist()
    [[-1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    start = jnp.asarray(number).astype(jnp.uint32) + 1
    bits = jax.lax.iota(jnp.uint32, math.prod(shape)) + start * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return (1 - 2 * (bits >> 31).astype(jnp.int32)).astype(dtype).reshape(shape)


def tree_of_signs(like: PyTree) -> PyTree:
    """`signs` in the shapes and types of the leaves, other ones for each leaf."""
    leaves, structure = jax.tree.flatten(like)
    drawn = [signs(jnp.shape(leaf), jnp.result_type(leaf), number) for number, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, drawn)
