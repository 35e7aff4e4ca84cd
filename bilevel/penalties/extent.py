"""The pieces of a pytree that a set or penalty acts on: each entry, each row, all entries, or a matrix.

One rule holds for the whole catalogue: an entry acts on a tree as it acts on the leaves joined into one array.
`bl.Parts` gives each part an entry of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation.typing import PyTree
from bilevel.kernels.arrays import as_point
from bilevel.kernels.side_by_side import beside, raveled, side_by_side


class Pieces(NamedTuple):
    """The arrays that an operator is applied to, each with its parameters, and the tree made of its results."""

    arguments: list[tuple[Any, ...]]
    restore: Callable[[list[Any]], PyTree]

    def each(self, operator: Callable[..., Any]) -> list[Any]:
        """The results, piece by piece."""
        return [operator(*arguments) for arguments in self.arguments]

    def apply(self, operator: Callable[..., Any]) -> PyTree:
        """The results as a tree like the point."""
        return self.restore(self.each(operator))


Extent: TypeAlias = Callable[[PyTree, list, str], Pieces]  # (point, parameters, the owner's name) -> pieces


def entries(point: PyTree, parameters: list[Any], owner: str) -> Pieces:
    """Each entry by itself, leaf by leaf; a parameter is shared by all leaves, or a (prefix of the) tree."""
    leaves, structure = jax.tree.flatten(point)
    if jax.tree_util.treedef_is_leaf(structure):
        return Pieces([(point, *map(jnp.asarray, parameters))], lambda results: results[0])
    spread = [jax.tree.leaves(jax.tree.broadcast(parameter, point)) for parameter in parameters]
    return Pieces(list(zip(leaves, *spread, strict=True)), structure.unflatten)


def rows(point: PyTree, parameters: list[Any], owner: str) -> Pieces:
    """Each row: the last axis, on which the leaves stand side by side; leading axes are a batch."""
    array, restore = side_by_side(point, owner)
    return Pieces([(array, *(beside(parameter, point) for parameter in parameters))], lambda results: restore(*results))


def everything(point: PyTree, parameters: list[Any], owner: str) -> Pieces:
    """All entries as one vector; a parameter that is a tree like the point is one, too."""
    vector, restore = ravel_pytree(jax.tree.map(as_point, point))
    flat = [raveled(_flat(parameter, point), point) for parameter in parameters]
    return Pieces([(vector, *flat)], lambda results: restore(*results))


def matrix(point: PyTree, parameters: list[Any], owner: str) -> Pieces:
    """The matrix of the last two axes of a single array; ValueError for more arrays."""
    leaves, structure = jax.tree.flatten(point)
    if len(leaves) != 1:
        raise ValueError(
            f"{owner} is one of matrices and needs params that are a single array, not the {len(leaves)} arrays of "
            f"{structure}: give each of them one of its own with bl.Parts."
        )
    return Pieces([(leaves[0], *parameters)], lambda results: structure.unflatten(results))


# The widest shape of a parameter, from the shape of the array.
ITS_PARAMETERS: dict[Extent, Callable[[tuple[Any, ...]], tuple[Any, ...]]] = {
    entries: lambda shape: shape,
    rows: lambda shape: shape[:-1],
    everything: lambda shape: (),
    matrix: lambda shape: shape[:-2],
}


def _flat(parameter: Any, point: PyTree) -> Any:
    """A parameter as a vector, where it is an array like a point that is one array."""
    alone = jax.tree_util.treedef_is_leaf(jax.tree.structure(point))
    return jnp.broadcast_to(parameter, jnp.shape(point)).reshape(-1) if alone and jnp.ndim(parameter) else parameter
