"""Symmetric matrices as vectors, in the convention of conic solvers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bilevel.kernels.arrays import as_point, same_rank


def svec(matrix: ArrayLike) -> jax.Array:
    """A symmetric matrix (..., n, n) as the vector of its lower triangle, column by column, with the entries below the
    diagonal scaled by sqrt(2): <svec A, svec B> = trace(A B).

    >>> svec(jnp.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [1.0, 0.0, 3.0]
    """
    matrix = as_point(matrix)
    rows, columns, scale = _triangle(matrix.shape[-1])
    entries, scale = same_rank(matrix[..., rows, columns], jnp.asarray(scale, matrix.dtype))
    return entries * scale


def smat(vector: ArrayLike) -> jax.Array:
    """The symmetric matrix whose `svec` is the vector (..., n (n + 1) / 2).

    >>> smat(jnp.array([1.0, 0.0, 3.0])).tolist()
    [[1.0, 0.0], [0.0, 3.0]]
    """
    vector = as_point(vector)
    n = round((np.sqrt(8 * vector.shape[-1] + 1) - 1) / 2)
    rows, columns, scale = _triangle(n)
    entries, scale = same_rank(vector, jnp.asarray(scale, vector.dtype))
    lower = jnp.zeros((*vector.shape[:-1], n, n), vector.dtype).at[..., rows, columns].set(entries / scale)
    strict = jnp.tril(lower, -1)
    return lower + jnp.swapaxes(strict, -1, -2)


def _triangle(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns, rows = np.triu_indices(n)  # the lower triangle column by column
    return rows, columns, np.where(rows == columns, 1.0, np.sqrt(2.0))


def upper_by_columns(n: int) -> np.ndarray:
    """The places in `svec` of the entries of the upper triangle, column by column.

    >>> upper_by_columns(3).tolist()
    [0, 1, 3, 2, 4, 5]
    """
    place = np.zeros((n, n), int)
    columns, rows = np.triu_indices(n)
    place[rows, columns] = np.arange(rows.size)
    return np.array([place[column, row] for column in range(n) for row in range(column + 1)], int)
