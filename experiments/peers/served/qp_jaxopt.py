"""JAXopt's OSQP on a batch of quadratic programs, with the gradient by implicit differentiation: its three solvers of
the inner system, at several tolerances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jaxopt
from protocol import Run, serve
from quadratic import gradients


def prepare(arrays: dict, tol: float, inner: str) -> Run:
    solver = jaxopt.OSQP(tol=tol, maxiter=4000, eq_qp_solve=inner)

    def solve(Q: Any, q: Any, G: Any, h: Any) -> Any:
        return solver.run(params_obj=(Q, q), params_eq=None, params_ineq=(G, h)).params.primal

    return gradients(arrays, solve)


def arms() -> dict[str, Callable[[dict], Run]]:
    return {
        f"OSQP ({inner}), tol {tol:.0e}": partial(prepare, tol=tol, inner=inner)
        for inner in ("cg", "cg+jacobi", "lu")
        for tol in (1e-3, 1e-5, 1e-8)
    }


if __name__ == "__main__":
    serve(arms())
