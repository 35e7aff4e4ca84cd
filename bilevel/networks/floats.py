"""Keys and counters as floating-point arrays.

An inner unknown consists of floating-point arrays, because solvers, carries, checkpoints and ``result.npz`` take those.
Each 16 bits of a key or a counter become one number, which float32 holds exactly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import PyTree


def as_floats(tree: PyTree) -> PyTree:
    """``tree`` with every leaf a floating-point array of the working precision; `from_floats` undoes it."""
    return jax.tree.map(_as_float, tree)


def from_floats(tree: PyTree, like: PyTree) -> PyTree:
    """The tree that `as_floats` was given. ``like`` has its structure, shapes and types; the values of ``like`` are not
    read. Floating-point leaves keep the precision that they have."""
    return jax.tree.map(_restored, like, tree)


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _implementation(like: jax.Array) -> str:
    """The name of the generator of a key, which JAX tells of arrays only, and ``like`` may be a shape."""
    names = ("threefry2x32", "rbg", "unsafe_rbg")
    return next(
        name for name in names if jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype == like.dtype
    )


def _as_float(leaf: jax.Array) -> jax.Array:
    leaf = jnp.asarray(leaf)
    working = jnp.result_type(float)
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    elif jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf.astype(working)
    if leaf.dtype.itemsize < 4:  # a flag or a small integer
        leaf = leaf.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint16).astype(working)


def _restored(like: jax.Array, numbers: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jnp.floating):
        return numbers
    bits = numbers.astype(jnp.uint16)
    if _is_key(like):
        words = jax.lax.bitcast_convert_type(bits, jnp.uint32)
        return jax.random.wrap_key_data(words, impl=_implementation(like))
    if like.dtype.itemsize < 4:
        return jax.lax.bitcast_convert_type(bits, jnp.uint32).astype(like.dtype)
    return jax.lax.bitcast_convert_type(bits, like.dtype)
