"""Bounds of norms in a canonical program: ||z|| <= t and t <= r become ||z|| <= r.

CVXPY gives a norm an unknown t of its own. Where a bound of the norm holds with room, t is not unique, and with it the
solution of the canonical program has no derivative, though that of the problem has one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

Sparse = Any  # a matrix of scipy.sparse


class Canonical(NamedTuple):
    """Rows A x + b in the cones of ``dims`` and costs c, whose entries are affine functions of CVXPY's parameters: each
    is a row of a sparse matrix with a column for each parameter."""

    A: Sparse  # (n * count, parameters), column by column
    b: Sparse  # (count, parameters)
    c: Sparse  # (n, parameters)
    dims: Dims


class Dims(NamedTuple):
    """The sizes of CVXPY's cones, in its order."""

    zero: int
    nonneg: int
    soc: tuple[int, ...]
    psd: tuple[int, ...]
    exp: int
    p3d: tuple[float, ...]

    @staticmethod
    def of(dims: Any) -> Dims:
        return Dims(dims.zero, dims.nonneg, tuple(dims.soc), tuple(dims.psd), dims.exp, tuple(dims.p3d))

    @property
    def heads(self) -> np.ndarray:
        """The first rows of the second-order cones."""
        starts = np.cumsum([0, *self.soc])[:-1]
        return self.zero + self.nonneg + starts.astype(int)


class Bound(NamedTuple):
    """The unknown t, its bound, the row in which it bounds a norm, and the multiple of the bound that it gains."""

    column: int
    row: int
    head: int
    factor: float


def without_bounds(program: Canonical, constants: list[int], kept: np.ndarray) -> tuple[Canonical, np.ndarray]:
    """The program without the unknowns t, and the places of the ``kept`` unknowns and of the others in it (-1 for those
    that are gone). ``constants`` are the columns of what does not depend on parameters."""
    n, count = program.c.shape[0], program.b.shape[0]
    found = bounds(program, constants, kept)
    columns = np.setdiff1d(np.arange(n), [bound.column for bound in found])
    rows = np.setdiff1d(np.arange(count), [bound.row for bound in found])
    gains = ([bound.factor for bound in found], ([bound.head for bound in found], [bound.row for bound in found]))
    sums = scipy.sparse.eye_array(count).tocsr() + scipy.sparse.csr_array(gains, shape=(count, count))
    places = (columns[:, None] * len(rows) + np.arange(len(rows))[None, :]).ravel()
    A = scipy.sparse.kron(scipy.sparse.eye_array(n), sums[rows]).tocsr() @ program.A
    index = np.full(n, -1)
    index[columns] = np.arange(len(columns))
    dims = program.dims._replace(nonneg=program.dims.nonneg - len(found))
    return Canonical(A[places], sums[rows] @ program.b, program.c[columns], dims), index


def bounds(program: Canonical, constants: list[int], kept: np.ndarray) -> list[Bound]:
    """The unknowns that cost nothing, are not ``kept``, and appear twice, with constant factors: in an inequality that
    bounds them from above, and in the first row of a second-order cone, which they widen."""
    n, (zero, nonneg), count = program.c.shape[0], program.dims[:2], program.b.shape[0]
    A = scipy.sparse.csr_array(program.A)
    A.eliminate_zeros()
    used = np.flatnonzero(np.diff(A.indptr))
    twice = np.bincount(used // count, minlength=n) == 2
    twice[np.unique(scipy.sparse.coo_array(program.c).nonzero()[0])] = False
    twice[kept] = False
    heads, found, taken = set(program.dims.heads), [], set()
    for column in np.flatnonzero(twice):
        places = used[used // count == column]
        row, head = places % count
        factors = [constant_entry(A, place, constants) for place in places]
        bounding = zero <= row < zero + nonneg and head in heads and row not in taken
        if bounding and factors[0] < 0 < factors[1]:
            found.append(Bound(int(column), int(row), int(head), float(-factors[1] / factors[0])))
            taken.add(row)
    return found


def constant_entry(A: Sparse, place: int, constants: list[int]) -> float:
    """The entry at a place, or NaN where it depends on parameters."""
    inside = slice(A.indptr[place], A.indptr[place + 1])
    return float(np.sum(A.data[inside])) if np.all(np.isin(A.indices[inside], constants)) else np.nan
