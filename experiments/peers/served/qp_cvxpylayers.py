"""cvxpylayers (JAX) on a batch of quadratic programs, with the gradient, by the solvers that it comes with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
from cvxpylayers.jax import CvxpyLayer
from protocol import Run, serve

jax.config.update("jax_enable_x64", True)
SETTINGS: dict[str, dict[str, Any]] = {
    "diffcp": {"solver": "DIFFCP", "solver_args": {"eps": 1e-8}},
    "diffcp by Clarabel": {"solver": "DIFFCP", "solver_args": {"solve_method": "Clarabel"}},
}


def prepare(arrays: dict, solver: str, solver_args: dict[str, Any]) -> Run:
    q, G, h, towards = (jnp.asarray(arrays[name]) for name in ("q", "G", "h", "towards"))
    root = jnp.asarray(np.linalg.cholesky(arrays["Q"]).transpose(0, 2, 1))  # 1/2 ||R x||^2: the form it can take
    rows, n = G.shape[1:]
    x, R, c, M, d = (
        cvxpy.Variable(n),
        cvxpy.Parameter((n, n)),
        cvxpy.Parameter(n),
        cvxpy.Parameter((rows, n)),
        cvxpy.Parameter(rows),
    )
    problem = cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(R @ x) + c @ x), [M @ x <= d])
    layer = CvxpyLayer(problem, [R, c, M, d], [x], solver=solver)

    def loss(R: Any, q: Any, G: Any, h: Any) -> Any:
        (found,) = layer(R, q, G, h, solver_args=solver_args)
        return jnp.sum(found * towards), found

    slope = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)

    def run() -> dict:
        (_, found), gradients = jax.block_until_ready(slope(root, q, G, h))
        return {"x": found} | dict(zip(("R", "q", "G", "h"), gradients, strict=True))

    return run


def arms() -> dict[str, Callable[[dict], Run]]:
    return {name: partial(prepare, **settings) for name, settings in SETTINGS.items()}


if __name__ == "__main__":
    serve(arms())
