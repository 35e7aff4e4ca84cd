"""Unknowns that an equality gives: CVXPY writes sum_squares(A x - b) as u'u with rows A x - u = b."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from bilevel.layers.norm_bounds import Canonical, constant_entry

Sparse = Any  # a matrix of scipy.sparse


class Permuted(NamedTuple):
    """A quadratic program whose first ``count`` rows give as many last unknowns; ``place`` is where each unknown is."""

    program: Canonical
    curvature: Sparse
    place: np.ndarray
    count: int


def explicit_last(program: Canonical, curvature: Sparse, constants: list[int]) -> Permuted:
    """The program with these unknowns last and their equalities first, in the same order."""
    n, count = program.c.shape[0], program.b.shape[0]
    given = explicit(program, curvature, constants)
    columns = np.concatenate([np.setdiff1d(np.arange(n), list(given)), list(given)]).astype(int)
    rows = list(given.values())
    rows = np.concatenate([rows, np.setdiff1d(np.arange(count), rows)]).astype(int)
    moved = Canonical(program.A[_places(columns, rows, count)], program.b[rows], program.c[columns], program.dims)
    return Permuted(moved, curvature[_places(columns, columns, n)], np.argsort(columns), len(given))


def explicit(program: Canonical, curvature: Sparse, constants: list[int]) -> dict[int, int]:
    """The unknowns with one coefficient, a constant one in an equality of their own, and with a curvature that is a
    positive constant and their own: each with its equality."""
    n, count, zero = program.c.shape[0], program.b.shape[0], program.dims.zero
    A, P = (scipy.sparse.csr_array(matrix) for matrix in (program.A, curvature))
    A.eliminate_zeros()
    P.eliminate_zeros()
    used, curved = (np.flatnonzero(np.diff(matrix.indptr)) for matrix in (A, P))
    once = np.bincount(used // count, minlength=n) == 1 if count else np.zeros(n, bool)
    beside = curved[curved // n != curved % n]
    once[np.concatenate([beside // n, beside % n])] = False
    found: dict[int, int] = {}
    for place in used[once[used // count]]:
        column, row = divmod(int(place), count)
        factor, bent = constant_entry(A, place, constants), constant_entry(P, column * (n + 1), constants)
        if row < zero and row not in found.values() and bent > 0 and abs(factor) > 0:  # false for NaN
            found[column] = row
    return found


def _places(columns: np.ndarray, rows: np.ndarray, height: int) -> np.ndarray:
    """Where the entries of a matrix whose columns and rows are permuted stood, column by column."""
    return (columns[:, None] * height + rows[None, :]).ravel()
