"""What `cutest_constrained.py` runs on a problem, ours and the peers', and how ours is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from cutest import OURS
from jax.flatten_util import ravel_pytree

import bilevel as bl

FEASIBLE, BALANCED, ACTIVE = 1e-6, 1e-4, 1e-5
Run = Callable[[], tuple[np.ndarray, str]]  # y, status


class Program(NamedTuple):
    """min objective(y) s.t. equality(y) == 0, inequality(y) <= 0, the finite bounds among the latter."""

    objective: Callable
    equality: Callable
    inequality: Callable
    start: jax.Array
    counts: tuple[int, int]

    def measured(self, y: Any) -> tuple[jax.Array, jax.Array]:
        """(objective, largest violation over 1 + the size of the point)."""
        off = jnp.concatenate([jnp.abs(self.equality(y)), jnp.maximum(self.inequality(y), 0), jnp.zeros(1)])
        return self.objective(y), jnp.max(off) / (1 + jnp.max(jnp.abs(y)))


def flattened(problem: Any) -> Program:
    start, unravel = ravel_pytree(problem.y0)
    sides = [np.asarray(ravel_pytree(side)[0]) for side in problem.bounds or ()]
    lower, upper = sides or (np.full(start.size, -np.inf), np.full(start.size, np.inf))
    low, high = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))

    def rows(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        equality, inequality = problem.constraint(unravel(y))
        flat = [jnp.zeros(0) if part is None else ravel_pytree(part)[0] for part in (equality, inequality)]
        return flat[0], jnp.concatenate([-flat[1], (lower - y)[low], (y - upper)[high]])

    equality, inequality = lambda y: rows(y)[0], lambda y: rows(y)[1]
    counts = (equality(start).size, inequality(start).size)
    return Program(lambda y: problem.objective(unravel(y), problem.args), equality, inequality, start, counts)


def ours(program: Program) -> Run:
    p, m = program.counts
    functions = {}
    if p:
        functions["equality"] = lambda y, h, batch: program.equality(y)
    if m:
        functions["inequality"] = lambda y, h, batch: program.inequality(y)
    inner = bl.InnerProblem(
        lambda y, h, batch: program.objective(y), lambda key, h: program.start, constraint=bl.Functional(**functions)
    )

    def run() -> tuple[np.ndarray, str]:
        found = inner.solve(None, None)
        return np.asarray(found.params), found.status.name

    return run


def for_slsqp(function: Callable, equal: bool) -> dict[str, Any]:
    """Rows that are 0, or at most 0, in the form and with the sign that SLSQP takes."""
    sign = 1 if equal else -1
    value, slope = jax.jit(function), jax.jit(jax.jacfwd(function))
    return {
        "type": "eq" if equal else "ineq",
        "fun": lambda y: sign * np.asarray(value(y)),
        "jac": lambda y: sign * np.asarray(slope(y)),
    }


def for_trust_constr(function: Callable, equal: bool) -> Any:
    value, slope = jax.jit(function), jax.jit(jax.jacfwd(function))
    curvature = jax.jit(jax.hessian(lambda y, v: v @ function(y)))
    return scipy.optimize.NonlinearConstraint(
        lambda y: np.asarray(value(y)),
        0.0 if equal else -np.inf,
        0.0,
        jac=lambda y: np.asarray(slope(y)),  # type: ignore[arg-type]  # a callable is one of the choices
        hess=lambda y, v: np.asarray(curvature(y, v)),
    )


def scipy_peer(method: str, stated: Callable[[Callable, bool], Any], options: dict[str, Any]) -> Callable:
    def made(program: Program) -> Run:
        both, hessian = jax.jit(jax.value_and_grad(program.objective)), jax.jit(jax.hessian(program.objective))
        sides = zip((program.equality, program.inequality), (True, False), program.counts, strict=True)
        rows = [stated(function, equal) for function, equal, count in sides if count]
        second = {} if method == "SLSQP" else {"hess": lambda y: np.asarray(hessian(y))}

        def run() -> tuple[np.ndarray, str]:
            value = lambda y: tuple(np.asarray(part, float) for part in both(y))
            start = np.asarray(program.start)
            found = scipy.optimize.minimize(
                value, start, jac=True, method=method, constraints=rows, options=options, **second
            )
            return found.x, "success" if found.success else "failure"

        return run

    return made


def judged(program: Program, y: np.ndarray, status: str) -> str:
    """What is wrong with the status, in words; empty where nothing is."""
    if status not in ("converged", "stalled"):
        return ""
    value, violation = (float(part) for part in program.measured(y))
    if not np.isfinite(value) or violation > FEASIBLE:
        return f"violation {violation:.1e}"
    gradient = np.asarray(jax.grad(program.objective)(y))
    rows = [np.asarray(jax.jacfwd(function)(y)) for function in (program.equality, program.inequality)]
    active = np.asarray(program.inequality(y)) >= -ACTIVE * (1 + np.abs(y).max())
    columns = np.concatenate([rows[0], -rows[0], rows[1][active]]).T
    if not np.all(np.isfinite(columns)):
        return ""
    sizes = np.linalg.norm(columns, axis=0)
    left = (
        scipy.optimize.nnls(columns / np.where(sizes > 0, sizes, 1), -gradient)[1]
        if columns.size
        else np.linalg.norm(gradient)
    )
    return f"force {left:.1e}" if left > BALANCED * max(1.0, float(np.linalg.norm(gradient))) else ""


SOLVERS = {
    OURS: ours,
    "SLSQP": scipy_peer("SLSQP", for_slsqp, {"maxiter": 1000, "ftol": 1e-12}),
    "trust-constr": scipy_peer("trust-constr", for_trust_constr, {"maxiter": 1000, "gtol": 1e-8, "xtol": 1e-12}),
}
