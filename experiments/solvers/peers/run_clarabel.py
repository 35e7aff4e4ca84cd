"""Clarabel on the quadratic programs."""

from __future__ import annotations

import clarabel as package
import numpy as np
import qp_arrays
import scipy.sparse
from protocol import Run, serve


def prepare(arrays: dict) -> Run:
    G, h = qp_arrays.rows(arrays)
    P = scipy.sparse.csc_matrix(np.triu(arrays["P"]))
    A = scipy.sparse.csc_matrix(np.concatenate([arrays["A"], G]))
    b, equalities = np.concatenate([arrays["b"], h]), arrays["b"].size
    cones = [package.ZeroConeT(equalities), package.NonnegativeConeT(h.size)]

    def run(tol: float) -> dict:
        options = package.DefaultSettings()
        options.verbose = False
        options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = tol
        solution = package.DefaultSolver(P, arrays["q"], A, b, cones, options).solve()
        duals = np.asarray(solution.z)
        return qp_arrays.found(arrays, np.asarray(solution.x), duals[:equalities], duals[equalities:])

    return run


if __name__ == "__main__":
    serve({"qp": {"Clarabel": prepare}})
