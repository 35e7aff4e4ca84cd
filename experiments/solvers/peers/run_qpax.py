"""qpax on the quadratic programs, compiled; dense, so those of more than 1000 unknowns are left out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import qp_arrays
from protocol import CannotDo, Run, serve

jax.config.update("jax_enable_x64", True)

import qpax as package

LARGEST = 1000


def prepare(arrays: dict) -> Run:
    if arrays["q"].size > LARGEST:
        raise CannotDo(f"more than {LARGEST} unknowns")
    data = [jnp.asarray(array) for array in (*(arrays[name] for name in "PqAb"), *qp_arrays.rows(arrays))]
    solve = jax.jit(lambda tol, *data: package.solve_qp(*data, solver_tol=tol, max_iter=100))

    def run(tol: float) -> dict:
        x, _, z, y, *_ = jax.block_until_ready(solve(tol, *data))
        return qp_arrays.found(arrays, x, y, z)

    return run


if __name__ == "__main__":
    serve({"qp": {"qpax": prepare}})
