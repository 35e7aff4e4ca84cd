"""qpax on a batch of quadratic programs, with the gradient: its two backends, at several tolerances and relaxations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from protocol import Run, serve

jax.config.update("jax_enable_x64", True)

import qpax  # noqa: E402


def prepare(arrays: dict, backend: str, tol: float, kappa: float) -> Run:
    Q, q, G, h, towards = (jnp.asarray(arrays[name]) for name in ("Q", "q", "G", "h", "towards"))
    A, b = jnp.zeros((0, q.shape[-1])), jnp.zeros(0)

    def loss(Q: Any, q: Any, G: Any, h: Any) -> Any:
        solve = partial(qpax.solve_qp_primal, backend=backend, solver_tol=tol, target_kappa=kappa)
        found = jax.vmap(lambda Q, q, G, h: solve(Q, q, A, b, G, h))(Q, q, G, h)
        return jnp.sum(found * towards), found

    slope = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))

    def run() -> dict:
        (_, found), gradients = jax.block_until_ready(slope(Q, q, G, h))
        return {"x": found} | dict(zip("QqGh", gradients, strict=True))

    return run


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
