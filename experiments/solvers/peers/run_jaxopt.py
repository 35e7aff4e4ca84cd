"""JAXopt, compiled, its tolerance being a traced value; needs an older JAX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt as package
from protocol import CannotDo, Run, serve

jax.config.update("jax_enable_x64", True)
MOST = 20_000


def squares(w: Any, data: tuple) -> Any:
    return 0.5 * jnp.mean((data[0] @ w - data[1]) ** 2)


def compiled(solver: Callable[[Any], Any], start: Any, *args: Any) -> Run:
    """``solver(tol)`` is a JAXopt solver; its residual is relative to nothing, as it is there."""

    @jax.jit
    def solve(tol: Any, start: Any, *args: Any) -> Any:
        return solver(tol).run(start, *args).params

    return lambda tol: {"params": jax.block_until_ready(solve(tol, start, *args))}


def losses(a: dict) -> tuple:
    """The smooth part, the start, the l1 weight and the data."""
    X, y, weight = jnp.asarray(a["X"]), jnp.asarray(a["y"]), float(a["ridge"])
    if "labels" in a:
        loss = lambda z: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(z), axis=1))
    elif set(a["y"].ravel().tolist()) <= {-1.0, 1.0}:
        loss = lambda z: jnp.mean(jnp.logaddexp(0.0, -y * z))
    else:
        loss = lambda z: 0.5 * jnp.mean((z - y) ** 2)
    start = jnp.zeros((X.shape[1], *y.shape[1:]))
    return lambda w, X: loss(X @ w) + 0.5 * weight * jnp.sum(w**2), start, float(a.get("l1", 0.0)), X


def smooth(a: dict, solver: str) -> Run:
    loss, start, l1, X = losses(a)
    if l1:
        raise CannotDo("a smooth solver")
    build = {"LBFGS": partial(package.LBFGS, loss), "GradientDescent": partial(package.GradientDescent, loss)}[solver]
    return compiled(lambda tol: build(tol=tol, maxiter=MOST), start, X)


def proximal(a: dict) -> Run:
    loss, start, l1, X = losses(a)
    if not l1:
        raise CannotDo("a nonsmooth solver")
    prox = package.prox.prox_lasso if start.ndim == 1 else _group_prox
    return compiled(lambda tol: package.ProximalGradient(loss, prox, tol=tol, maxiter=MOST), start, l1, X)


def _group_prox(w: Any, weight: Any, scaling: Any = 1.0) -> Any:
    return jax.vmap(lambda row: package.prox.prox_group_lasso(row, weight, scaling))(w)


def coordinate(a: dict) -> Run:
    _, start, l1, X = losses(a)
    if float(a["ridge"]) or not l1:
        raise CannotDo("the lasso only")
    build = lambda tol: package.BlockCoordinateDescent(
        package.objective.least_squares, package.prox.prox_lasso, tol=tol, maxiter=MOST
    )
    return compiled(build, start, l1, (X, jnp.asarray(a["y"])))


def projected(a: dict, projection: Callable) -> Run:
    hyper: Any = None
    if "X" in a:
        X, y = jnp.asarray(a["X"]), jnp.asarray(a["y"])
        if "scale" in a:
            loss = lambda w: 0.5 * a["scale"] * jnp.sum((X.T @ (y - w)) ** 2) + jnp.sum(w * y)
            start = jnp.full(y.shape, 1 / y.shape[1])
        else:
            loss, start = lambda w: squares(w, (X, y)), jnp.zeros(X.shape[1])
    else:
        P, q = jnp.asarray(a["P"]), jnp.asarray(a["q"])
        loss, start = lambda w: 0.5 * w @ (P @ w) + q @ w, jnp.zeros(q.size)
        hyper = (jnp.asarray(a["low"]), jnp.asarray(a["high"])) if projection is boxes else 1.0
    return compiled(lambda tol: package.ProjectedGradient(loss, projection, tol=tol, maxiter=MOST), start, hyper)


def _rows_on_simplex(w: Any, hyper: Any = None) -> Any:
    return jax.vmap(package.projection.projection_simplex)(w)


def bounded(a: dict) -> Run:
    P, q = jnp.asarray(a["P"]), jnp.asarray(a["q"])
    bounds = (jnp.asarray(a["low"]), jnp.asarray(a["high"]))
    build = lambda tol: package.LBFGSB(lambda w: 0.5 * w @ (P @ w) + q @ w, tol=tol, maxiter=MOST)
    return compiled(build, jnp.zeros(q.size), bounds)


def program(a: dict) -> Run:
    import qp_arrays

    G, h = (jnp.asarray(part) for part in qp_arrays.rows(a))
    P, q, A, b = (jnp.asarray(a[name]) for name in "PqAb")
    if q.size > 1000:
        raise CannotDo("more than 1000 unknowns")
    equalities = (A, b) if b.size else None

    @jax.jit
    def solve(tol: Any) -> Any:
        solver = package.OSQP(tol=tol, maxiter=MOST, eq_qp_solve="lu")
        return solver.run(params_obj=(P, q), params_eq=equalities, params_ineq=(G, h)).params

    def run(tol: float) -> dict:
        found = jax.block_until_ready(solve(tol))
        equality_dual = found.dual_eq if b.size else jnp.zeros(0)
        return qp_arrays.found(a, found.primal, equality_dual, found.dual_ineq)

    return run


def equilibrium(a: dict, solver: str) -> Run:
    W, U = jnp.asarray(a["W"]), jnp.asarray(a["U"])
    step = lambda z: jnp.tanh(z @ W.T + U)
    build = {
        "AndersonAcceleration": partial(package.AndersonAcceleration, step, history_size=5),
        "FixedPointIteration": partial(package.FixedPointIteration, step),
    }[solver]
    return compiled(lambda tol: build(tol=tol, maxiter=MOST), jnp.zeros_like(U))


SMOOTH = {name: partial(smooth, solver=name) for name in ("LBFGS", "GradientDescent")}
boxes, orthant = package.projection.projection_box, package.projection.projection_non_negative
PEER = {
    "ridge": SMOOTH,
    "logistic": SMOOTH | {"ProximalGradient": proximal},
    "softmax": SMOOTH,
    "lasso": {"ProximalGradient": proximal, "BlockCoordinateDescent": coordinate},
    "group lasso": {"ProximalGradient": proximal},
    "box": {"LBFGSB": bounded, "ProjectedGradient": partial(projected, projection=boxes)},
    "nnls": {"ProjectedGradient": partial(projected, projection=orthant)},
    "simplex": {"ProjectedGradient": partial(projected, projection=package.projection.projection_simplex)},
    "svm": {"ProjectedGradient": partial(projected, projection=_rows_on_simplex)},
    "qp": {"OSQP": program},
    "equilibrium": {
        name: partial(equilibrium, solver=name) for name in ("AndersonAcceleration", "FixedPointIteration")
    },
}

if __name__ == "__main__":
    serve(PEER)
