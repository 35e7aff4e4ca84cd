"""Sparse symmetric matrices that are quasidefinite up to a shift, factored on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

Matrix = Any  # of scipy.sparse, in compressed columns; checkers know too little of its operators
Inverse = Callable[[np.ndarray], np.ndarray]

SHIFT = 1e-8  # relative to the largest entry of P: every factor exists, and refinement removes the error of it
REFINEMENTS = 12  # each removes the share of the shift in the smallest pivot
PRECISE = 1e-15  # the share of the terms of a row at which refinement ends
LOST = 1e-6  # the share that a factor with small pivots leaves; then a factor with exchanges of rows is made


def saddle(P: Matrix, C: Matrix, corner: np.ndarray) -> Matrix:
    """[[P, C'], [C, -diag(corner)]]."""
    last = scipy.sparse.diags_array(-corner)
    return scipy.sparse.csc_array(scipy.sparse.block_array([[P, C.T], [C, last]]))


def refined_inverse(matrix: Matrix, leading: int) -> Inverse:
    """right-hand sides (size,) or (size, columns) -> solutions, by one factor of K + SHIFT diag(I, -I).

    K is symmetric, positive semidefinite on the first ``leading`` unknowns and negative semidefinite on the others, so
    the shifted matrix is quasidefinite: it has a factor with diagonal pivots in every order, and the order with few new
    entries is taken. Refinement with K itself removes the error of the shift. Where K is singular and the system has a
    solution, it tends to one. Source: Vanderbei, Symmetric quasidefinite matrices, 1995; Friedlander and Orban, A
    primal-dual regularized interior-point method for convex quadratic programs, 2012.

    >>> solve = refined_inverse(scipy.sparse.csc_array([[2.0, 1.0], [1.0, 0.0]]), 1)
    >>> solve(np.array([4.0, 1.0])).round(6).tolist()
    [1.0, 2.0]
    """
    first = matrix[:leading, :leading]
    largest = float(np.max(np.abs(first.data), initial=0)) or 1.0
    signs = np.where(np.arange(matrix.shape[0]) < leading, SHIFT * largest, -SHIFT * largest)
    shifted = scipy.sparse.csc_array(matrix + scipy.sparse.diags_array(signs))
    inverses = [_inverse(shifted, diagonal=True)]

    def solve(rhs: np.ndarray) -> np.ndarray:
        columns = rhs.reshape(len(rhs), -1)
        found, left = _refined(matrix, inverses[0], columns)
        lost = ~(left <= LOST)
        if np.any(lost & np.all(np.isfinite(columns), axis=0)):
            if len(inverses) == 1:
                inverses.append(_inverse(shifted, diagonal=False))
            again, after = _refined(matrix, inverses[1], columns[:, lost])
            found[:, lost] = np.where(after < left[lost], again, found[:, lost])
        return found.reshape(rhs.shape)

    return solve


def _refined(matrix: Matrix, inverse: Inverse, rhs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The solutions with the smallest residuals, column by column, and those residuals: the largest share of the terms
    of a row, because the rows of an interior-point step differ by many powers of ten. A column that is not finite
    leaves the others alone. Source: Oettli and Prager, 1964."""
    sizes, number = abs(matrix), rhs.shape[1]
    found, rest = np.zeros_like(rhs), rhs
    best, least = np.full_like(rhs, np.nan), np.full(number, np.inf)
    for _ in range(REFINEMENTS):
        found = found + inverse(rest)
        rest = rhs - matrix @ found
        terms = sizes @ np.abs(found) + np.abs(rhs)
        left = np.max(np.abs(rest) / np.where(terms > 0, terms, 1), axis=0, initial=0)
        better = left < least  # False for NaN
        best, least = np.where(better, found, best), np.where(better, left, least)
        if not np.any(better & (left > PRECISE)):
            break
    return best, least


def from_entries(data: np.ndarray, places: np.ndarray, shape: tuple[int, ...]) -> Matrix:
    """The matrix of entries at (row, column); places outside of the shape, which pad a `BCOO`, are left out."""
    rows, columns = places.T
    inside = (rows < shape[0]) & (columns < shape[1])
    entries = np.asarray(data, np.float64)[inside], (rows[inside], columns[inside])
    return scipy.sparse.csc_array(scipy.sparse.coo_array(entries, shape=shape))


def _inverse(matrix: Matrix, diagonal: bool) -> Inverse:
    """By a sparse LU factor, whose pivots stay on the ``diagonal``; NaN where a pivot is exactly zero."""
    try:
        return _factor(matrix, diagonal).solve
    except RuntimeError:  # SciPy's "Factor is exactly singular"
        return lambda rhs: np.full_like(rhs, np.nan)


def _factor(matrix: Matrix, diagonal: bool) -> Any:
    if not diagonal:
        return scipy.sparse.linalg.splu(matrix)
    symmetric = {"SymmetricMode": True}
    return scipy.sparse.linalg.splu(matrix, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=symmetric)


def least_pivot(matrix: Matrix) -> float:
    """The smallest pivot of a factor with exchanges of rows, relative to the largest one; 0 for a singular matrix.

    >>> least_pivot(scipy.sparse.csc_array([[2.0, 0.0], [0.0, 1.0]])), least_pivot(scipy.sparse.csc_array([[0.0]]))
    (0.5, 0.0)
    """
    if matrix.nnz == 0 or not np.all(np.isfinite(matrix.data)):
        return 0.0
    try:
        pivots = np.abs(_factor(matrix, diagonal=False).U.diagonal())
    except RuntimeError:
        return 0.0
    return float(np.min(pivots) / np.max(pivots))


def is_positive_semidefinite(matrix: Matrix, eps: float = float(np.finfo(float).eps)) -> bool:
    """Whether a symmetric sparse matrix has no negative eigenvalue, up to the rounding ``eps`` of its entries, in all
    units of its rows.

    >>> matrices = map(scipy.sparse.csc_array, ([[1.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]))
    >>> [is_positive_semidefinite(matrix) for matrix in matrices]
    [True, False]
    """
    size = matrix.shape[0]
    diagonal, largest = np.abs(matrix.diagonal()), float(np.max(np.abs(matrix.data), initial=0)) or 1.0
    scale = scipy.sparse.diags_array(np.where(diagonal > eps * largest, diagonal, largest) ** -0.5)
    unit = scale @ matrix @ scale + 10 * size * eps * scipy.sparse.eye_array(size)
    try:
        factor = _factor(scipy.sparse.csc_array(unit), diagonal=True)
    except RuntimeError:
        return False
    # A pivot that is not on the diagonal is taken where the diagonal has none left.
    return bool(np.array_equal(factor.perm_r, factor.perm_c) and np.all(factor.U.diagonal() > 0))
