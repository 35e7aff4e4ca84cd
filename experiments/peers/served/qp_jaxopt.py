"""JAXopt's OSQP on a batch of quadratic programs, with the gradient by implicit differentiation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
from protocol import Run, serve

jax.config.update("jax_enable_x64", True)


def prepare(arrays: dict, tol: float, inner: str) -> Run:
    Q, q, G, h, towards = (jnp.asarray(arrays[name]) for name in ("Q", "q", "G", "h", "towards"))
    solver = jaxopt.OSQP(tol=tol, maxiter=4000, eq_qp_solve=inner)

    def loss(Q: Any, q: Any, G: Any, h: Any) -> Any:
        found = jax.vmap(
            lambda Q, q, G, h: solver.run(params_obj=(Q, q), params_eq=None, params_ineq=(G, h)).params.primal
        )(Q, q, G, h)
        return jnp.sum(found * towards), found

    slope = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))

    def run() -> dict:
        (_, found), gradients = jax.block_until_ready(slope(Q, q, G, h))
        return {"x": found} | dict(zip("QqGh", gradients, strict=True))

    return run


def arms() -> dict[str, Callable[[dict], Run]]:
    return {
        f"OSQP ({inner}), tol {tol:.0e}": partial(prepare, tol=tol, inner=inner) for inner in ("lu",) for tol in (1e-3,)
    }


if __name__ == "__main__":
    serve(arms())
