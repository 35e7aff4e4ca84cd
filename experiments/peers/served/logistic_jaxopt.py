"""JAXopt's LBFGS and BFGS with implicit differentiation on logistic regression with one penalty for each feature,
warm-started, with conjugate gradients for the adjoint system.

Counted on an untimed repetition of the path, by callbacks: evaluations of the gradient of the inner loss and products
with its Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
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


def told(tally: Callable[[], None], value: Any) -> Any:
    jax.debug.callback(lambda _: tally(), jnp.sum(value))
    return value


def step(method: str, tol: float, counts: dict[str, int] | None) -> Callable:
    """(h, w, data, held_out) -> ((validation loss, solution), gradient), compiled; counts what it does, if told to."""

    def tally(name: str) -> None:
        assert counts is not None
        counts[name] += 1

    def adjoint(matvec: Callable, b: Any, **settings: Any) -> Any:
        counted = matvec if counts is None else lambda v: told(partial(tally, "products"), matvec(v))
        return jaxopt.linear_solve.solve_cg(counted, b, tol=tol, maxiter=1000)

    def value_and_slope(w: Any, h: Any, data: tuple) -> Any:
        found = jax.value_and_grad(inner)(w, h, data)
        return found if counts is None else (found[0], told(partial(tally, "gradients"), found[1]))

    solver = getattr(jaxopt, method)(
        value_and_slope, value_and_grad=True, tol=tol, maxiter=10_000, implicit_diff_solve=adjoint, jit=True
    )

    def outer(h: Any, w: Any, data: tuple, held_out: tuple) -> Any:
        found = solver.run(w, h, data)
        return jnp.mean(jnp.logaddexp(0.0, -held_out[1] * (held_out[0] @ found.params))), found

    return jax.jit(jax.value_and_grad(outer, has_aux=True))


def prepare(arrays: dict, method: str, tol: float) -> Run:
    X, y, X_val, y_val = (jnp.asarray(arrays[name]) for name in ("X", "y", "X_val", "y_val"))
    slope, numbers = step(method, tol, None), {"gradients": 0, "products": 0}
    cumulative: dict[str, np.ndarray] = {}

    def path(slope: Callable, counts: dict[str, int]) -> dict:
        state = {"w": jnp.zeros(X.shape[1])}

        def evaluate(h: np.ndarray) -> tuple:
            before = dict(counts)
            (value, found), gradient = jax.block_until_ready(slope(jnp.asarray(h), state["w"], (X, y), (X_val, y_val)))
            jax.effects_barrier()
            state["w"] = found.params
            return value, gradient, *(counts[name] - before[name] for name in ("gradients", "products"))

        return descend(evaluate, arrays)

    def run() -> dict:
        if not cumulative:  # in the first run, which is not timed
            counted = path(step(method, tol, numbers), numbers)
            cumulative.update({name: counted[name] for name in numbers})
        found = path(slope, {name: 0 for name in numbers})
        steps = len(found["seconds"])  # the counted path, which is slower, may have been given less of them
        known = {name: count[:steps] for name, count in cumulative.items()}
        return found | {
            name: np.pad(count, (0, steps - len(count)), constant_values=-1) for name, count in known.items()
        }

    return run


if __name__ == "__main__":
    ways = (("LBFGS", 1e-6), ("LBFGS", 1e-8), ("BFGS", 1e-6), ("BFGS", 1e-8))
    serve({f"{method} {tol:.0e}": partial(prepare, method=method, tol=tol) for method, tol in ways})
