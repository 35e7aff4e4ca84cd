"""JAXopt on the dual of the multiclass SVM: value and derivative of the validation loss by implicit differentiation.

Its three solvers, as its own benchmark of this problem has them, at several tolerances, each with the default solver of
the adjoint system (CG on the normal equations) and with GMRES; projected gradient also with the Gram matrix instead of
the features. `jaxopt.ProjectedGradient` ignores its ``implicit_diff_solve``: `jaxopt.ProximalGradient` stands for it.
The label of an arm is its solver, tolerance and adjoint solver.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
from jaxopt import linear_solve, objective, projection
from protocol import Run, serve

jax.config.update("jax_enable_x64", True)
MOST = 10_000
ADJOINTS = {"normal CG": linear_solve.solve_normal_cg, "GMRES": linear_solve.solve_gmres}
rows_on_simplex = jax.vmap(projection.projection_simplex)


def quadratic(x: Any, theta: Any, data: tuple) -> Any:
    """The dual with the features, as one smooth function."""
    features, answers = data
    return objective.multiclass_linear_svm_dual(x, theta, (features, answers))


def gram(x: Any, theta: Any, data: tuple) -> Any:
    """The dual with the Gram matrix."""
    kernel, answers = data
    apart = answers - x
    return 0.5 * jnp.sum(apart * (kernel @ apart)) / theta + jnp.vdot(x, answers)


def projected(tol: float, dual: Callable, adjoint: Callable) -> Callable:
    on_simplex = jaxopt.prox.make_prox_from_projection(lambda x, _: rows_on_simplex(x))
    solver = jaxopt.ProximalGradient(dual, on_simplex, tol=tol, maxiter=MOST, implicit_diff_solve=adjoint)
    return lambda start, theta, data: solver.run(start, None, theta, data).params


def mirror(tol: float, dual: Callable, adjoint: Callable) -> Callable:
    solver = jaxopt.MirrorDescent(
        dual,
        projection_grad=jaxopt.MirrorDescent.make_projection_grad(
            lambda x, _: jax.nn.softmax(x, axis=-1), lambda x: jnp.log(jnp.maximum(x, 1e-300))
        ),
        stepsize=1.0,
        tol=tol,
        maxiter=MOST,
        implicit_diff_solve=adjoint,
    )
    return lambda start, theta, data: solver.run(start, None, theta, data).params


def blocks(tol: float, dual: Callable, adjoint: Callable) -> Callable:
    solver = jaxopt.BlockCoordinateDescent(
        objective.multiclass_linear_svm_dual,
        lambda x, _, scaling=1.0: projection.projection_simplex(x),
        tol=tol,
        maxiter=MOST,
        implicit_diff_solve=adjoint,
    )
    return lambda start, theta, data: solver.run(start, None, theta, data).params


def prepare(arrays: dict, build: Callable, tol: float, adjoint: str, dual: Callable = quadratic) -> Run:
    train, answers, other, targets, log_theta = (
        jnp.asarray(arrays[name]) for name in ("train", "answers", "validation", "targets", "log_theta")
    )
    solve = build(tol, dual, ADJOINTS[adjoint])
    left = train @ train.T if dual is gram else train
    right = other @ train.T if dual is gram else other
    start = jnp.full(answers.shape, 1 / answers.shape[1])

    @jax.jit
    @jax.value_and_grad
    def value(log_theta: Any, left: Any, right: Any) -> Any:
        theta = jnp.exp(log_theta)
        x = solve(start, theta, (left, answers))
        apart = answers - x
        scores = (right @ apart if dual is gram else right @ (left.T @ apart)) / theta
        return 0.5 * jnp.sum((scores - targets) ** 2) / len(targets)

    def run() -> dict:
        found, slope = jax.block_until_ready(value(log_theta, left, right))
        return {"value": found, "gradient": slope}

    return run


def arms() -> dict[str, Callable[[dict], Run]]:
    found = {}
    for tol in (1e-2, 1e-3, 1e-4):
        for adjoint in ADJOINTS:
            for name, build, dual in (
                ("PG", projected, quadratic),
                ("PG Gram", projected, gram),
                ("MD", mirror, quadratic),
                ("BCD", blocks, quadratic),
            ):
                settings = {"build": build, "tol": tol, "adjoint": adjoint, "dual": dual}
                found[f"{name} {tol:.0e}, {adjoint}"] = partial(prepare, **settings)
    return found


if __name__ == "__main__":
    serve(arms())
