"""Points and parameters as arrays of one dtype, and norms whose derivative is finite everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.typing import PyTree


def as_point(x: ArrayLike) -> jax.Array:
    """``x`` as a floating-point array; integers become the default float. ValueError for complex numbers."""
    array = _real(jnp.asarray(x), "A point")
    return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(jnp.result_type(float))


def like(parameter: ArrayLike, point: jax.Array) -> jax.Array:
    """``parameter`` as an array of the dtype of ``point``: a float32 point stays float32."""
    return _real(jnp.asarray(parameter), "A parameter").astype(point.dtype)


def of_rows(parameter: ArrayLike, point: jax.Array) -> jax.Array:
    """``parameter``, a number or one for each row of ``point``, as a column of the rank of ``point``."""
    return jnp.broadcast_to(like(parameter, point), point.shape[:-1])[..., None]


def _real(array: jax.Array, role: str) -> jax.Array:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(
            f"{role} of shape {array.shape} is of type {array.dtype}, but projections, proximal operators, cones and "
            "programs are those of real vectors: give its real and imaginary parts as two arrays."
        )
    return array


def known(*arrays: jax.Array, rows: bool = False) -> jax.Array:
    """Whether no entry is NaN; with ``rows``, for each row, the last axis kept with length one.

    A comparison with NaN is false, so an operator that compares would turn NaN into a number: `valid` marks such
    results.
    """
    axis = -1 if rows else None
    return ~sum((jnp.any(jnp.isnan(array), axis=axis, keepdims=rows) for array in arrays), jnp.bool_(False))


def map_leaves(function: Callable[..., jax.Array], tree: PyTree, *parameters: PyTree) -> PyTree:
    """``function(leaf, *parameters)`` over a tree; each parameter is a number, an array, or a (prefix of the) tree.

    >>> scaled = map_leaves(lambda leaf, scale: scale * leaf, [jnp.ones(2), jnp.ones(())], [2.0, 3.0])
    >>> scaled[0].tolist(), float(scaled[1])
    ([2.0, 2.0], 3.0)
    """
    full = [jax.tree.broadcast(parameter, tree) for parameter in parameters]

    def mapped(leaf: ArrayLike, *rest: ArrayLike) -> jax.Array:
        point = as_point(leaf)
        return function(*same_rank(point, *(like(parameter, point) for parameter in rest)))

    return jax.tree.map(mapped, tree, *full)


def same_rank(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays with leading axes of length one where another has more; numbers stay as they are.

    They then broadcast as before, also where `jax_numpy_rank_promotion` is "raise".
    """
    rank = max(array.ndim for array in arrays)
    return [jnp.expand_dims(array, range(rank - array.ndim)) if array.ndim else array for array in arrays]


def over_batches(function: Callable[..., jax.Array], signature: str) -> Callable[..., jax.Array]:
    """`jnp.vectorize`, for arguments of which some have fewer leading axes than others.

    >>> scaled = over_batches(lambda x, total: x / total, "(n),()->(n)")
    >>> with jax.numpy_rank_promotion("raise"):
    ...     scaled(jnp.ones((3, 2)), jnp.array(2.0)).shape
    (3, 2)
    """
    vectorized = jnp.vectorize(function, signature=signature)
    inputs = re.findall(r"\(([^)]*)\)", signature.split("->")[0])
    cores = [len([name for name in names.split(",") if name]) for names in inputs]

    def batched(*arrays: jax.Array) -> jax.Array:
        leading = [array.ndim - core for array, core in zip(arrays, cores, strict=True)]
        missing = [max(leading) - count for count in leading]
        return vectorized(*(jnp.expand_dims(a, range(count)) for a, count in zip(arrays, missing, strict=True)))

    return batched


def norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """The Euclidean norm, without overflow; its derivative at zero is zero (a subgradient), never NaN.

    >>> float(norm(jnp.array([3.0, 4.0]))), jax.grad(norm)(jnp.zeros(2)).tolist()
    (5.0, [0.0, 0.0])
    """
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    scale = jnp.where(size > 0, size, 1)
    squares = jnp.sum(jnp.square(x / scale), axis=axis)
    nonzero = squares != 0  # the norm of NaN is NaN
    root = jnp.sqrt(jnp.where(nonzero, squares, 1))
    return jnp.where(nonzero, root, 0) * jnp.squeeze(scale, axis=axis)


def unit(x: jax.Array) -> jax.Array:
    """x / ||x|| along the last axis, which must not be zero; right at every scale of x, and so is its derivative.

    >>> bool(jnp.allclose(unit(jnp.array([3e-30, 4e-30])), jnp.array([0.6, 0.8])))
    True
    """
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0))
    scaled = x / jnp.where(size > 0, size, 1)
    length = norm(scaled)[..., None]
    return scaled / jnp.where(length == 0, 1, length)


def valid(condition: jax.Array, value: jax.Array, *inputs: jax.Array) -> jax.Array:
    """``value`` where the condition holds, NaN where it does not, and so is its derivative there, in both modes.

    The derivative with respect to ``inputs`` is NaN there even where ``value`` does not depend on them: a zero would
    pass for an answer. A condition that is an array keeps the last axis (of length one) of the inputs.

    >>> jax.grad(lambda x: valid(x[0] > 0, 2 * x, x)[0])(jnp.array([-1.0, 1.0])).tolist()
    [nan, nan]
    """
    moved = jnp.zeros((), value.dtype)
    for array in inputs:
        change = change_of(array)
        moved = moved + (jnp.sum(change, axis=-1, keepdims=True) if condition.ndim else jnp.sum(change))
    marker = jnp.where(condition, 1, jnp.nan).astype(value.dtype)
    return value * marker + (marker - 1) * moved


def change_of(array: jax.Array) -> jax.Array:
    """Zero, with the derivative of ``array`` where that is finite."""
    finite = jnp.where(jnp.isfinite(array), array, 0)
    return finite - jax.lax.stop_gradient(finite)


def after(tree: PyTree, done: PyTree) -> PyTree:
    """``tree``, unchanged, as something that depends on ``done``.

    Two calls of LAPACK for a batch that do not depend on each other can block the CPU for ever: each holds a thread of
    the pool while it waits for the others, and with two threads none is left (jaxlib 0.10). A dependence puts them in
    an order. XLA keeps the product with zero, because of NaN and infinity.

    >>> float(after(jnp.array(2.0), jnp.array([jnp.nan, True])))
    2.0
    """
    total = sum(jnp.sum(jnp.asarray(leaf, float)) for leaf in jax.tree.leaves(done))
    zero = 0.0 * jnp.where(jnp.isfinite(total), total, 1.0)
    moves = lambda leaf: leaf + zero.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
    return jax.tree.map(moves, tree)
