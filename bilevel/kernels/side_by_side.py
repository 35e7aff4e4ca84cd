"""Pytrees as one array: leaves side by side along the last axis, or all entries in one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.typing import PyTree
from bilevel.kernels.arrays import as_point

Restore = Callable[[jax.Array], PyTree]


def side_by_side(tree: PyTree, owner: str) -> tuple[jax.Array, Restore]:
    """The leaves (..., n_i) as one array (..., sum of n_i), and the way back; a scalar is a row of one entry.

    Raises ValueError, in the name of ``owner``, where the leading axes differ, because then no rows belong together.

    >>> array, restore = side_by_side({"a": jnp.arange(2.0), "b": jnp.array(5.0)}, "it")
    >>> array.tolist(), float(restore(2 * array)["b"])
    ([0.0, 1.0, 5.0], 10.0)
    """
    leaves, structure = jax.tree.flatten(tree)
    points = [as_point(leaf) for leaf in leaves]
    rows = [_row(point) for point in points]
    if len({row.shape[:-1] for row in rows}) > 1:
        shapes = ", ".join(str(point.shape) for point in points)
        raise ValueError(
            f"{owner} acts along the last axis, on which the leaves of the params stand side by side, but leaves of "
            f"shapes {shapes} do not have the same leading axes: give each leaf one of its own with bl.Parts."
        )
    ends = np.cumsum([row.shape[-1] for row in rows])[:-1]

    def restore(array: jax.Array) -> PyTree:
        pieces = jnp.split(array, ends, axis=-1) if len(points) > 1 else [array]
        return structure.unflatten(
            [_in_dtype(piece.reshape(point.shape), point) for piece, point in zip(pieces, points, strict=True)]
        )

    return _joined(rows), restore


def on_rows(function: Callable[..., jax.Array], tree: PyTree, *others: Any, owner: str = "bl.Simplex") -> PyTree:
    """function(array, *others) on the leaves of ``tree`` side by side, as a tree again; each of ``others`` with the
    structure of ``tree`` is put side by side too."""
    array, restore = side_by_side(tree, owner)
    return restore(function(array, *(beside(other, tree) for other in others)))


def beside(parameter: Any, tree: PyTree) -> Any:
    """A parameter that is a pytree like ``tree`` as an array in the order of `side_by_side`; a number in it counts for
    all entries of its leaf. Any other parameter is unchanged."""
    if not stated_like(parameter, tree):
        return parameter
    pairs = zip(jax.tree.leaves(parameter), jax.tree.leaves(tree), strict=True)
    return _joined([_row(jnp.broadcast_to(p, jnp.shape(x)[-1:]) if jnp.ndim(p) == 0 else p) for p, x in pairs])


def raveled(parameter: Any, tree: PyTree) -> Any:
    """A parameter that is a pytree like ``tree`` as one vector, each leaf broadcast against the leaf of ``tree``; any
    other parameter unchanged."""
    if not stated_like(parameter, tree):
        return parameter
    pairs = zip(jax.tree.leaves(parameter), jax.tree.leaves(tree), strict=True)
    return _joined([jnp.broadcast_to(p, jnp.shape(x)).reshape(-1) for p, x in pairs])


def stated_like(parameter: Any, tree: PyTree) -> bool:
    """Whether a parameter has the structure of a tree of more than one array."""
    structure = jax.tree.structure(tree)
    return not jax.tree_util.treedef_is_leaf(structure) and jax.tree.structure(parameter) == structure


def _in_dtype(array: jax.Array, point: jax.Array) -> jax.Array:
    return array.astype(point.dtype) if jnp.issubdtype(array.dtype, jnp.inexact) else array


def _row(array: Any) -> jax.Array:
    array = jnp.asarray(array)
    return array[None] if array.ndim == 0 else array


def _joined(rows: list[jax.Array]) -> jax.Array:
    if len(rows) == 1:
        return rows[0]
    return jnp.concatenate(rows, axis=-1) if rows else jnp.zeros(0)
