"""JAXopt's accelerated proximal gradient on the lasso, with the derivative by implicit differentiation (GMRES)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import jaxopt
from jaxopt import linear_solve
from protocol import Run, serve

jax.config.update("jax_enable_x64", True)
MOST = 1000


def proximal(tol: float) -> Callable:
    solver = jaxopt.ProximalGradient(
        lambda w, data: 0.5 * jnp.mean((data[0] @ w - data[1]) ** 2),
        jaxopt.prox.prox_lasso,
        tol=tol,
        maxiter=MOST,
        implicit_diff_solve=linear_solve.solve_gmres,
    )
    return lambda start, alpha, data: solver.run(start, alpha, data).params


def prepare(arrays: dict, solver: Callable, tol: float) -> Run:
    x, y, v, t = (jnp.asarray(arrays[name]) for name in ("x", "y", "v", "t"))
    alpha, solve = float(arrays["alpha"]), solver(tol)

    def loss(log_alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = solve(jnp.zeros(x.shape[1]), jnp.exp(log_alpha), (x, y))
        return 0.5 * jnp.mean((v @ params - t) ** 2), jnp.sum(params != 0)

    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run() -> dict:
        (value, support), gradient = jax.block_until_ready(slope(jnp.log(alpha)))
        return {"value": value, "gradient": gradient, "support": support}

    return run


def arms() -> dict[str, Callable[[dict], Run]]:
    return {f"PG {tol:.0e}": partial(prepare, solver=proximal, tol=tol) for tol in (1e-3, 1e-5)}


if __name__ == "__main__":
    serve(arms())
