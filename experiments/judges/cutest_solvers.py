"""What `cutest.py` runs on a problem, ours and the peers', and how ours is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import scipy.optimize
from jax.flatten_util import ravel_pytree

import bilevel as bl

DECREASE, SLOPE, CONDITION = 1e-4, 1e-3, 1e8
Found = tuple[np.ndarray, str, Any]  # y, status, (derivative, its estimate) of ours
Run = Callable[[], Found]


def flattened(problem: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    """(objective of a flat vector, start, bounds)."""
    start, unravel = ravel_pytree(problem.y0)
    stated = getattr(problem, "bounds", None) or ()  # some state that there are none
    bounds = [ravel_pytree(side)[0] for side in stated]
    lower, upper = bounds or (jnp.full_like(start, -jnp.inf), jnp.full_like(start, jnp.inf))
    return (lambda y: problem.objective(unravel(y), problem.args)), start, (lower, upper)


def ours(objective: Any, start: Any, bounds: tuple, bounded: bool, c: np.ndarray) -> Run:
    """A function of nothing that runs bilevel, compiled at its first call (y, status, (derivative, its estimate))."""
    feasible = bl.Box(lower=bounds[0], upper=bounds[1]) if bounded else bl.Free()
    task = bl.Task(
        inner=bl.InnerProblem(
            lambda y, h, batch: objective(y) + h * (c @ y), lambda key, h: start, constraint=feasible
        ),
        outer_loss=lambda y, h, batch: c @ y,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(None, None),
    )

    def run() -> Found:
        try:
            _, slope, report = bl.hypergradient(task, jnp.zeros(()))
        except bl.ConvergenceError as error:
            report: Any = error.report
            return np.asarray(report.params), report.status.name, (np.nan, np.inf)
        return np.asarray(report.params), report.status.name, (float(slope), float(report.error_estimate))

    return run


def scipy_peer(objective: Any, start: Any, bounds: tuple, bounded: bool, c: np.ndarray) -> Run:
    both = jax.jit(jax.value_and_grad(objective))

    def run() -> Found:
        found = scipy.optimize.minimize(
            lambda y: [np.asarray(part, float) for part in both(y)],
            np.asarray(start),
            jac=True,
            method="L-BFGS-B" if bounded else "BFGS",
            bounds=np.stack([np.asarray(side) for side in bounds], axis=1) if bounded else None,
            options={"maxiter": 10_000, "gtol": 1e-8},
        )
        return found.x, "success" if found.success else "failure", None

    return run


def optimistix_peer(objective: Any, start: Any, bounds: tuple, bounded: bool, c: np.ndarray) -> Run:
    solver = optimistix.BFGS(rtol=1e-10, atol=1e-10)
    solve = jax.jit(lambda y: optimistix.minimise(lambda y, _: objective(y), solver, y, max_steps=10_000, throw=False))

    def run() -> Found:
        found = solve(start)
        good = found.result == optimistix.RESULTS.successful
        return np.asarray(found.value), "success" if bool(good) else "failure", None

    return run


def judged(objective: Any, bounds: tuple, y: np.ndarray, c: np.ndarray, status: str, slope: Any) -> tuple:
    """(what is wrong with the status, what is wrong with the derivative), in words; empty where nothing is."""
    if status not in ("converged", "stalled"):
        return "", ""
    value, gradient = (np.asarray(part) for part in jax.jit(jax.value_and_grad(objective))(y))
    lower, upper = (np.asarray(side) for side in bounds)
    near = 1e-8 * (1 + np.abs(y))
    free = ~(((y <= lower + near) & (gradient > 0)) | ((y >= upper - near) & (gradient < 0)))
    hessian, pull = np.asarray(jax.jit(jax.hessian(objective))(y))[np.ix_(free, free)], gradient[free]
    if not np.all(np.isfinite(hessian)):
        return "nonfinite Hessian", ""
    eigenvalues, vectors = np.linalg.eigh(hessian) if free.any() else (np.ones(1), np.zeros((0, 1)))
    if eigenvalues[0] < -1e-6 * np.abs(eigenvalues).max():
        return f"curvature {eigenvalues[0]:.1e}", ""
    kept = eigenvalues > 1e-12 * eigenvalues[-1]
    decrease = 0.5 * np.sum((vectors.T @ pull)[kept] ** 2 / eigenvalues[kept])
    if decrease > DECREASE * (1 + abs(value)):
        return f"decrease {decrease:.1e}", ""
    if eigenvalues[-1] > CONDITION * eigenvalues[0]:
        return "", ""
    right = -float(np.sum((vectors.T @ c[free]) ** 2 / eigenvalues))
    error = abs(slope[0] - right)
    return "", f"{slope[0]:.6g} for {right:.6g}" if not error <= max(3 * slope[1], SLOPE * abs(right)) else ""
