"""Inputs that a process does not hold: their rows are read from the published files when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Blocks = Callable[[], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows ``index`` of an array (n, features) that ``blocks()`` yields from its first row on, some at a time,
    dense or as CSR matrices.

    It is sliced and indexed along its first axis as an array is. Each time the blocks are read anew, up to the last row
    that is asked for, and no other row is kept. ``np.asarray`` reads all of its rows. Of several processes each asks
    for the rows of its own devices. ``ones`` appends a column of ones, for an intercept.

    >>> rows = Rows(lambda: np.split(np.arange(12.0).reshape(6, 2), 3), np.array([5, 0, 3]), 2)
    >>> rows.shape, rows[:2].tolist()
    ((3, 2), [[10.0, 11.0], [0.0, 1.0]])
    """

    blocks: Blocks
    index: np.ndarray
    features: int
    ones: bool = False

    ndim = 2
    dtype = np.dtype(float)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.features + self.ones

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: np.ndarray) -> Rows:
        """The rows at ``index``, in that order; nothing is read."""
        return replace(self, index=self.index[index])

    def with_ones(self) -> Rows:
        """The rows with a column of ones behind the last; nothing is read."""
        return replace(self, ones=True)

    def __getitem__(self, place: Any) -> np.ndarray:
        index = self.index[place]
        order = np.argsort(index, kind="stable")
        wanted, found, first = index[order], np.ones((len(index), self.shape[1])), 0
        for block in self.blocks():
            begin, end = np.searchsorted(wanted, (first, first + block.shape[0]))
            rows = block[wanted[begin:end] - first]
            found[order[begin:end], : self.features] = rows if isinstance(rows, np.ndarray) else rows.toarray()
            first += block.shape[0]
            if end == len(wanted):
                break
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


def in_memory(tree: Any) -> Any:
    """The tree with arrays in the place of `Rows`."""
    import jax  # here, because the command line reads the list of data sets before it needs JAX

    return jax.tree.map(lambda leaf: leaf[:] if isinstance(leaf, Rows) else leaf, tree)
