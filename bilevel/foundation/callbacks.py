"""Functions on NumPy arrays, called from compiled programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import PyTree


def on_host(function: Callable[..., PyTree], like: PyTree, *args: PyTree, together: bool = False) -> PyTree:
    """function(*args) on the host, on NumPy arrays, with a result of the structure, shapes and dtypes of ``like``.

    Works under jit; under vmap the lanes are called one after another. With ``together`` there is one call for all of
    them, on arrays with a leading axis for each vmap (of length 1 where the argument is the same in all lanes), and the
    result has those axes too. JAX runs callbacks in a thread of its own. The context ``jax.enable_x64`` does not reach
    that thread, so 64-bit values would be rounded to 32 bits there: they travel as pairs of words, and the setting is
    restored around the call. Raises ValueError, on the host, for a result of another shape.
    """
    double = bool(jax.config.read("jax_enable_x64"))
    leaves, structure = jax.tree.flatten(args)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    kinds = [leaf.dtype for leaf in leaves]
    expected, rebuild = jax.tree.flatten(like)

    def called(*words: Any) -> list[np.ndarray]:
        arrays = [_joined(np.asarray(word), kind) for word, kind in zip(words, kinds, strict=True)]
        with jax.enable_x64(double):
            result = jax.tree.leaves(function(*jax.tree.unflatten(structure, arrays)))
            return [_fitting(leaf, one, function, together) for leaf, one in zip(result, expected, strict=True)]

    shapes = [jax.eval_shape(_split, leaf) for leaf in expected]
    lanes = "expand_dims" if together else "sequential"
    words = jax.pure_callback(called, shapes, *map(_split, leaves), vmap_method=lanes)
    results = [jax.lax.bitcast_convert_type(word, leaf.dtype) for word, leaf in zip(words, expected, strict=True)]
    return jax.tree.unflatten(rebuild, results)


def _is_wide(kind: np.dtype) -> bool:
    return kind.itemsize == 8 and kind.kind in "fiu"


def _split(leaf: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32) if _is_wide(leaf.dtype) else leaf


def _joined(words: np.ndarray, kind: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(words).view(kind)[..., 0] if _is_wide(kind) else words


def _fitting(leaf: Any, like: jax.ShapeDtypeStruct, function: Callable, together: bool) -> np.ndarray:
    array = np.asarray(leaf, like.dtype, order="C")
    if (array.shape[array.ndim - len(like.shape) :] if together else array.shape) != like.shape:
        name = getattr(function, "__name__", "the host function")
        raise ValueError(f"{name} returned shape {array.shape} where {like.shape} is asked for: return that shape.")
    return array[..., None].view(np.uint32) if _is_wide(like.dtype) else array
