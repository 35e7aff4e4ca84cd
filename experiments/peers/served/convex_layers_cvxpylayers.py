"""cvxpylayers (JAX) on batches of problems stated in CVXPY, with the gradient, by the solvers that it comes with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from convex_problems import PROBLEMS
from cvxpylayers.jax import CvxpyLayer
from protocol import Run, serve

jax.config.update("jax_enable_x64", True)
SETTINGS: dict[str, dict[str, Any]] = {
    "SCS, default": {},
    "SCS, eps 1e-8": {"eps": 1e-8},
    "Clarabel": {"solve_method": "Clarabel"},
}


def prepare(arrays: dict, name: str, solver_args: dict[str, Any]) -> Run:
    A, b, towards = (jnp.asarray(arrays[key]) for key in ("A", "b", "towards"))
    stated = PROBLEMS[name](*A.shape[1:])
    layer = CvxpyLayer(stated.problem, stated.parameters, [stated.variable], solver="DIFFCP")

    def loss(A: Any, b: Any) -> Any:
        (found,) = layer(A, b, solver_args=solver_args)
        return jnp.sum(found * towards), found

    slope = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    def run() -> dict:
        (_, found), gradients = jax.block_until_ready(slope(A, b))
        return {"x": found} | dict(zip("Ab", gradients, strict=True))

    return run


def arms() -> dict[str, Callable[[dict], Run]]:
    return {
        f"{name}; {label}": partial(prepare, name=name, solver_args=solver_args)
        for name in PROBLEMS
        for label, solver_args in SETTINGS.items()
    }


if __name__ == "__main__":
    serve(arms())
