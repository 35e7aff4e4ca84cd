"""One outer step of a run examined again: true residuals, symmetry, spectrum, a tight solve."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.engines import Carry, Engine, Implicit, Point, Report
from bilevel.engines.auto import extremes
from bilevel.engines.hypergradients import hypergradient
from bilevel.foundation import trees
from bilevel.foundation.typing import HParams, PyTree
from bilevel.implicit import System
from bilevel.linear_solve import AutoLinear, Dense
from bilevel.linear_solve.symmetry import check_symmetric
from bilevel.task import PRECISIONS, Task
from bilevel.verification.oracle import LONGER, TIGHT

DENSE = 2000  # unknowns up to which the system is factored
LANCZOS = 60  # products spent on the spectrum


def scrutinize(task: Task, double: Task, engine: Engine, point: Point, carry: Carry) -> Iterator[str]:
    """The findings at ``point``, one line each. They are judged by ``double``, the task in double precision."""
    with jax.enable_x64(PRECISIONS[task.precision]):
        grad, report = taken(task, engine, point, carry)
        yield f"taken again: {_outcome(report)}"
        params = report.carry.params
    with jax.enable_x64(True):
        at: Any = jax.tree.map(_double, (point.hparams, point.key))
        again = Point(at[0], *jax.tree.map(_double, (point.inner_batch, point.outer_batch)), key=at[1])
        yield from spectrum(double, again, jax.tree.map(_double, params))
        yield from reference(double, again, jax.tree.map(_double, grad))


def taken(task: Task, engine: Engine, point: Point, carry: Carry | None) -> tuple[HParams, Report]:
    """The hypergradient and its report, also where a solve failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = (point.inner_batch, point.outer_batch)
        settings: Any = engine
        told = replace(settings, on_failure="warn")
        _, grad, report = hypergradient(task, point.hparams, told, batch=batch, key=point.key, carry=carry)
    return grad, report


def spectrum(task: Task, point: Point, params: PyTree) -> Iterator[str]:
    """The residual, recomputed in double precision, and symmetry, definiteness and condition of the linear system."""
    inner = task.inner
    cold = inner.cold_start(point.key, point.hparams, point.inner_batch)
    first, here = (trees.norm(inner.mapping(w, point.hparams, point.inner_batch)) for w in (cold, params))
    yield f"inner residual in double precision: {float(here):.2e}, {float(here / first):.2e} of that of the cold start"
    mapping = inner.mapping.localize(params, point.hparams, point.inner_batch)
    system: System = mapping.system(params, point.hparams, point.inner_batch)
    example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(system.restrict, params))
    try:
        check_symmetric(system.operator, example, jax.random.key(1))
    except ValueError:
        yield "the system is not symmetric: CG and MINRES cannot solve it"
        return
    low, high = extremes(system.operator, example, LANCZOS)
    size = ravel_pytree(example)[0].size
    kind = "INDEFINITE" if low < -1e-8 * abs(high) else "positive"
    condition = f", condition at least {high / low:.1e}" if low > 0 else ""
    yield (
        f"the system is symmetric and {kind}: {size} unknowns, Ritz values from {low:.2e} to {high:.2e} after "
        f"{min(size, LANCZOS)} Lanczos steps{condition}"
    )


def reference(task: Task, point: Point, grad: HParams) -> Iterator[str]:
    """The gradient of a tight inner solve and a direct adjoint solve, and its distance from the given gradient."""
    solver: Any = task.inner.solver
    tight = task.inner.with_solver(replace(solver, tol=TIGHT["float64"], max_steps=LONGER * solver.max_steps))
    unknowns = sum(np.size(leaf) for leaf in jax.tree.leaves(jax.eval_shape(lambda: _cold(task, point))))
    engine = Implicit(linear_solve=Dense() if unknowns <= DENSE else AutoLinear(tol=1e-13, max_steps=10_000))
    exact, report = taken(replace(task, inner=tight), engine, point, None)
    size = float(trees.norm(exact))
    error = float(trees.norm(trees.subtract(grad, exact)))
    yield f"tight solve: {_outcome(report)}"
    relative = error / max(size, math.ulp(0.0))
    yield f"the gradient that was taken differs from it by {relative:.2e} of its size {size:.3e}"


def _cold(task: Task, point: Point) -> PyTree:
    return task.inner.cold_start(point.key, point.hparams, point.inner_batch)


def _double(leaf: Any) -> Any:
    is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, jnp.float64) if is_float else leaf


def _outcome(report: Report) -> str:
    return (
        f"inner {report.inner_status.name} after {int(report.inner_steps)} steps (residual "
        f"{float(report.inner_residual):.1e}), adjoint {report.adjoint_status.name} after {int(report.adjoint_steps)} "
        f"products (residual {float(report.adjoint_residual):.1e}), error {float(report.error_estimate):.1e} "
        f"({report.error_grade})"
    )
