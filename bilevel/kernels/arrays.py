"""Points and parameters as arrays of one dtype, and norms whose derivative is finite everywhere."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bilevel.typing import PyTree


def as_point(x) -> jax.Array:
    """``x`` as a floating-point array; integers become the default float."""
    array = jnp.asarray(x)
    return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(jnp.result_type(float))


def like(parameter, point: jax.Array) -> jax.Array:
    """``parameter`` as an array of the dtype of ``point``: a float32 point stays float32."""
    return jnp.asarray(parameter).astype(point.dtype)


def map_leaves(function: Callable[..., jax.Array], tree: PyTree, *parameters: PyTree) -> PyTree:
    """``function(leaf, *parameters)`` over a tree; each parameter is a number, an array, or a (prefix of the) tree.

    >>> scaled = map_leaves(lambda leaf, scale: scale * leaf, [jnp.ones(2), jnp.ones(())], [2.0, 3.0])
    >>> scaled[0].tolist(), float(scaled[1])
    ([2.0, 2.0], 3.0)
    """
    full = [jax.tree.broadcast(parameter, tree) for parameter in parameters]
    return jax.tree.map(
        lambda leaf, *rest: function(as_point(leaf), *(like(r, as_point(leaf)) for r in rest)), tree, *full
    )


def norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """The Euclidean norm, without overflow; its derivative at zero is zero (a subgradient), never NaN.

    >>> float(norm(jnp.array([3.0, 4.0]))), jax.grad(norm)(jnp.zeros(2)).tolist()
    (5.0, [0.0, 0.0])
    """
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    scale = jnp.where(size > 0, size, 1)
    squares = jnp.sum(jnp.square(x / scale), axis=axis)
    nonzero = squares > 0
    root = jnp.sqrt(jnp.where(nonzero, squares, 1))
    return jnp.where(nonzero, root, 0) * jnp.squeeze(scale, axis=axis)


def valid(condition: jax.Array, value: jax.Array) -> jax.Array:
    """``value`` where the condition holds, NaN where it does not, and so is the derivative there, in both modes.

    >>> jax.grad(lambda x: valid(x > 0, 2 * x))(jnp.array(-1.0)).item()
    nan
    """
    return value * jnp.where(condition, 1, jnp.nan).astype(value.dtype)
