"""What `cutest_least_squares.py` runs on a problem, ours and the peers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import scipy.optimize
from cutest import OURS
from jax.flatten_util import ravel_pytree

import bilevel as bl

TIGHT, MOST = 1e-12, 1000
Run = Callable[[], tuple[np.ndarray, str, int]]  # y, status, steps


def flattened(problem: Any) -> tuple[Any, Any, tuple[Any, Any]]:
    """(residual of a flat vector, start, bounds); the equations are the residual."""
    start, unravel = ravel_pytree(problem.y0)
    given = problem.bounds if getattr(problem, "bounds", None) is not None else ()
    bounds = [ravel_pytree(side)[0] for side in given]
    lower, upper = bounds or (jnp.full_like(start, -jnp.inf), jnp.full_like(start, jnp.inf))
    return (lambda y: ravel_pytree(problem.constraint(unravel(y))[0])[0]), start, (lower, upper)


def ours(residual: Any, start: Any, bounds: tuple, bounded: bool) -> Run:
    inner = bl.InnerProblem(
        loss=bl.LeastSquares(lambda y, h, batch: residual(y)),
        init=lambda key, h: start,
        constraint=bl.Box(lower=bounds[0], upper=bounds[1]) if bounded else bl.Free(),
    )

    def run() -> tuple[np.ndarray, str, int]:
        found = inner.solve(None, None)
        return np.asarray(found.params), found.status.name, int(found.steps)

    return run


def scipy_peer(residual: Any, start: Any, bounds: tuple, bounded: bool) -> Run:
    value, jacobian = jax.jit(residual), jax.jit(jax.jacfwd(residual))
    sides = [np.asarray(side) for side in bounds]

    def run() -> tuple[np.ndarray, str, int]:
        found = scipy.optimize.least_squares(
            lambda y: np.asarray(value(y)),
            np.clip(np.asarray(start), *sides),
            jac=lambda y: np.asarray(jacobian(y)),  # type: ignore[arg-type]  # a callable is one of the choices
            bounds=sides,
            x_scale="jac",
            ftol=TIGHT,
            xtol=TIGHT,
            gtol=TIGHT,
            max_nfev=MOST,
        )
        return found.x, "success" if found.success else "failure", int(found.nfev)

    return run


def optimistix_peer(residual: Any, start: Any, bounds: tuple, bounded: bool) -> Run | None:
    if bounded:
        return None
    solver = optimistix.LevenbergMarquardt(rtol=TIGHT, atol=TIGHT)

    @jax.jit
    def solve(y: jax.Array) -> tuple:
        found = optimistix.least_squares(lambda y, _: residual(y), solver, y, max_steps=MOST, throw=False)
        return found.value, found.result == optimistix.RESULTS.successful, found.stats["num_steps"]

    def run() -> tuple[np.ndarray, str, int]:
        value, good, steps = solve(start)
        return np.asarray(value), "success" if bool(good) else "failure", int(steps)

    return run


SOLVERS = {OURS: ours, "SciPy": scipy_peer, "Optimistix": optimistix_peer}
