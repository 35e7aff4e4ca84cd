"""OSQP, with and without polishing, set up anew for each solve (its factorisation is part of it)."""

from __future__ import annotations

from functools import partial

import numpy as np
import osqp as package
import qp_arrays
import scipy.sparse
from protocol import Run, serve


def prepare(arrays: dict, polish: bool) -> Run:
    G, h = qp_arrays.rows(arrays)
    P = scipy.sparse.csc_matrix(np.triu(arrays["P"]))
    A = scipy.sparse.csc_matrix(np.concatenate([arrays["A"], G]))
    lower = np.concatenate([arrays["b"], np.full(h.size, -np.inf)])
    upper, equalities = np.concatenate([arrays["b"], h]), arrays["b"].size

    def run(tol: float) -> dict:
        solver = package.OSQP()
        solver.setup(
            P, arrays["q"], A, lower, upper,
            eps_abs=tol, eps_rel=tol, max_iter=100_000, polishing=polish, verbose=False,
        )  # fmt: skip
        solution = solver.solve(raise_error=False)
        return qp_arrays.found(arrays, solution.x, solution.y[:equalities], solution.y[equalities:])

    return run


if __name__ == "__main__":
    serve({"qp": {"OSQP": partial(prepare, polish=False), "OSQP polished": partial(prepare, polish=True)}})
