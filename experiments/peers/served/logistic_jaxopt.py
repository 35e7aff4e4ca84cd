"""JAXopt's LBFGS with implicit differentiation on logistic regression with one penalty for each feature, warm-started;
at two tolerances, with conjugate gradients for the adjoint system."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from outer import descend
from protocol import Run, serve

jax.config.update("jax_enable_x64", True)


def inner(w: Any, h: Any, data: tuple) -> Any:
    X, y = data
    return jnp.mean(jnp.logaddexp(0.0, -y * (X @ w))) + 0.5 * jnp.sum(jnp.exp(h) * w**2)


def prepare(arrays: dict, tol: float) -> Run:
    X, y, X_val, y_val = (jnp.asarray(arrays[name]) for name in ("X", "y", "X_val", "y_val"))
    adjoint = partial(jaxopt.linear_solve.solve_cg, tol=tol, maxiter=1000)
    solver = jaxopt.LBFGS(inner, tol=tol, maxiter=10_000, implicit_diff_solve=adjoint)

    def outer(h: Any, w: Any, data: tuple, held_out: tuple) -> Any:
        found = solver.run(w, h, data)
        return jnp.mean(jnp.logaddexp(0.0, -held_out[1] * (held_out[0] @ found.params))), found

    slope = jax.jit(jax.value_and_grad(outer, has_aux=True))

    def run() -> dict:
        state = {"w": jnp.zeros(X.shape[1])}

        def evaluate(h: np.ndarray) -> tuple:
            (value, found), gradient = slope(jnp.asarray(h), state["w"], (X, y), (X_val, y_val))
            state["w"] = found.params
            return value, gradient, int(found.state.iter_num), 0

        return descend(evaluate, arrays)

    return run


if __name__ == "__main__":
    serve({f"LBFGS {tol:.0e}": partial(prepare, tol=tol) for tol in (1e-4, 1e-6)})
