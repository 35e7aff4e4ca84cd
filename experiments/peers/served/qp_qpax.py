"""qpax on a batch of quadratic programs, with the gradient: its two backends, at several tolerances and relaxations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from protocol import Run, serve
from quadratic import gradients  # before qpax: it sets the precision

import qpax  # isort: skip


def prepare(arrays: dict, backend: str, tol: float, kappa: float) -> Run:
    A, b = jnp.zeros((0, arrays["q"].shape[-1])), jnp.zeros(0)
    solver = partial(qpax.solve_qp_primal, backend=backend, solver_tol=tol, target_kappa=kappa)

    def solve(Q: Any, q: Any, G: Any, h: Any) -> Any:
        return solver(Q, q, A, b, G, h)

    return gradients(arrays, solve)


def arms() -> dict[str, Callable[[dict], Run]]:
    return {
        f"{'explicit' if backend == 'e' else 'implicit'}, tol {tol:.0e}, kappa {kappa:.0e}": partial(
            prepare, backend=backend, tol=tol, kappa=kappa
        )
        for backend in "ei"
        for tol, kappa in ((1e-5, 1e-3), (1e-5, 1e-8), (1e-8, 1e-8), (1e-10, 1e-10), (1e-12, 1e-12))
    }


if __name__ == "__main__":
    serve(arms())
