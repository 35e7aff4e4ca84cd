"""Matrices that are dense arrays or sparse ones (`jax.experimental.sparse.BCOO`), treated alike."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.experimental.sparse import BCOO, JAXSparse, bcoo_concatenate

from bilevel.linear_solve.sparse_factor import from_entries

Matrix = Any  # jax.Array or BCOO


def is_sparse(matrix: Any) -> bool:
    return isinstance(matrix, JAXSparse)


def as_matrix(matrix: Any) -> Matrix:
    """A sparse matrix unchanged, anything else as an array. Raises ValueError for formats other than BCOO."""
    if is_sparse(matrix) and not isinstance(matrix, BCOO):
        raise ValueError(
            f"A sparse matrix has to be a jax.experimental.sparse.BCOO; it is a {type(matrix).__name__}. "
            "Convert it with BCOO.from_scipy_sparse or BCOO.fromdense."
        )
    return matrix if is_sparse(matrix) else jnp.asarray(matrix)


def with_data(matrix: BCOO, data: jax.Array) -> BCOO:
    """Other values at the same places."""
    return BCOO((data, matrix.indices), shape=matrix.shape)


def cast(matrix: Matrix, dtype: Any) -> Matrix:
    return with_data(matrix, matrix.data.astype(dtype)) if is_sparse(matrix) else matrix.astype(dtype)


def times(scale: jax.Array, matrix: Matrix) -> Matrix:
    """scale * matrix, for a number."""
    return with_data(matrix, scale * matrix.data) if is_sparse(matrix) else scale * matrix


def rows_kept(matrix: Matrix, kept: jax.Array) -> Matrix:
    """The matrix with zero rows where ``kept`` is False."""
    if is_sparse(matrix):
        return with_data(matrix, jnp.where(kept[matrix.indices[:, 0]], matrix.data, 0))
    return jnp.where(kept[:, None], matrix, 0)


def symmetric_part(matrix: Matrix) -> Matrix:
    """(M + M') / 2.

    Of a sparse matrix the entries of M and M' are both stored, because adding entries at one place takes a sort of them
    all.
    """
    if not is_sparse(matrix):
        return 0.5 * (matrix + matrix.T)
    both = jnp.concatenate([matrix.indices, matrix.indices[:, ::-1]])
    return BCOO((0.5 * jnp.concatenate([matrix.data, matrix.data]), both), shape=matrix.shape)


def stacked(top: Matrix, bottom: Matrix) -> Matrix:
    """[top; bottom], sparse if either is."""
    if not (is_sparse(top) or is_sparse(bottom)):
        return jnp.concatenate([top, bottom])
    return bcoo_concatenate([sparse(top), sparse(bottom)], dimension=0)


def sparse(matrix: Matrix) -> BCOO:
    """The matrix in stored entries; a dense one stores all of them."""
    return matrix if is_sparse(matrix) else BCOO.fromdense(matrix, nse=matrix.size)


def dense(matrix: Matrix) -> jax.Array:
    return matrix.todense() if is_sparse(matrix) else matrix


def squared(matrix: Matrix) -> Matrix:
    """Entry by entry."""
    if not is_sparse(matrix):
        return matrix**2
    # An entry may be stored in parts. The barrier keeps XLA from sorting the places of a constant while it compiles.
    places = jax.lax.optimization_barrier(matrix.indices)
    whole = BCOO((matrix.data, places), shape=matrix.shape).sum_duplicates(nse=matrix.nse)
    return with_data(whole, whole.data**2)


def is_positive_semidefinite(matrix: jax.Array) -> jax.Array:
    """Whether a symmetric dense matrix has no negative eigenvalue, up to rounding, in all units of its rows.

    >>> bool(is_positive_semidefinite(jnp.ones((2, 2)))), bool(is_positive_semidefinite(jnp.array([[0.0, 1], [1, 0]])))
    (True, False)
    """
    n, eps = matrix.shape[0], float(jnp.finfo(matrix.dtype).eps)
    largest, diagonal = jnp.max(jnp.abs(matrix), initial=0), jnp.abs(jnp.diagonal(matrix))
    largest = jnp.where(largest > 0, largest, 1)
    scale = 1 / jnp.sqrt(jnp.where(diagonal > eps * largest, diagonal, largest))
    unit = scale[:, None] * matrix * scale[None, :]
    factor = jnp.linalg.cholesky(unit + 10 * n * eps * jnp.eye(n, dtype=matrix.dtype))
    return jnp.all(jnp.isfinite(jnp.diagonal(factor)))


def compressed(matrix: Matrix) -> scipy.sparse.csc_array:
    """A matrix on the host, dense or `BCOO` with NumPy's arrays in it, in compressed columns and float64."""
    if not is_sparse(matrix):
        return scipy.sparse.csc_array(np.asarray(matrix, np.float64))
    return from_entries(np.asarray(matrix.data), np.asarray(matrix.indices), matrix.shape)


def between(rows: jax.Array, matrix: Matrix, columns: jax.Array) -> Matrix:
    """diag(rows) matrix diag(columns)."""
    if not is_sparse(matrix):
        return rows[:, None] * matrix * columns[None, :]
    at = matrix.indices
    factors = rows.at[at[:, 0]].get(mode="fill", fill_value=0) * columns.at[at[:, 1]].get(mode="fill", fill_value=0)
    return with_data(matrix, factors * matrix.data)


def largest(matrix: Matrix) -> jax.Array:
    """The size of its largest entry."""
    return jnp.max(jnp.abs(matrix.data if is_sparse(matrix) else matrix), initial=0)
