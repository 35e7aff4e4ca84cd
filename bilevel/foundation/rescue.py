"""A second method for the lanes of a batch where the first one failed, run only if there are any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp


def rescued(failed: jax.Array, method: Callable[..., Any], args: tuple, found: Any) -> Any:
    """``method(*args)`` where ``failed``, else ``found``; arrays of the same shapes. Without derivatives.

    Under `jax.vmap` a plain `lax.cond` would run the method in every lane of every batch. Here it runs in no lane if
    none failed, and in all of them otherwise.

    >>> x = jnp.array([1.0, -1.0])
    >>> jax.vmap(lambda x: rescued(x < 0, lambda x: -x, (x,), x))(x).tolist()
    [1.0, 1.0]
    """
    structure = jax.tree.structure((args, found))

    @jax.custom_batching.custom_vmap
    def choose(failed: jax.Array, *leaves: jax.Array) -> Any:
        args, found = jax.tree.unflatten(structure, leaves)

        def pick(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(failed.reshape(failed.shape[0], *[1] * (old.ndim - 1)), new, old)

        def mixed() -> Any:  # within the branch, because a choice between large factors costs as much as a product
            return jax.tree.map(pick, jax.vmap(method)(*args), found)

        return jax.lax.cond(jnp.any(failed), mixed, lambda: found)

    @choose.def_vmap
    def batched(size: int, in_batched: list, failed: jax.Array, *leaves: jax.Array) -> tuple[Any, Any]:
        def joined(leaf: jax.Array, batch: bool) -> jax.Array:
            spread = leaf if batch else jnp.broadcast_to(leaf, (size, *leaf.shape))
            return spread.reshape(size * spread.shape[1], *spread.shape[2:])  # a shape with -1 is ambiguous where n = 0

        flat = [joined(leaf, batch) for leaf, batch in zip((failed, *leaves), in_batched, strict=True)]
        chosen = choose(*flat)
        split = jax.tree.map(lambda leaf: leaf.reshape(size, leaf.shape[0] // size, *leaf.shape[1:]), chosen)
        return split, jax.tree.map(lambda _: True, split)

    leaves = [jnp.asarray(leaf)[None] for leaf in jax.tree.leaves((args, found))]
    return jax.tree.map(lambda leaf: leaf[0], choose(jnp.asarray(failed)[None], *leaves))
