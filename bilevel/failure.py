"""What follows from a solve that failed: raise, warn, retry or skip."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

from bilevel.engines import Engine, Implicit, Report
from bilevel.linear_solve import GMRES, Dense
from bilevel.solvers import Solver
from bilevel.status import REMEDIES, Code, ConvergenceError

MORE_STEPS = 10


def failed(report: Report) -> bool:
    return not bool(report.status.ok)


def describe(report: Report) -> str:
    """One sentence a failing solve, with its residual and the remedy."""
    solves = (
        ("inner solve", report.inner_status, report.inner_residual, report.inner_steps),
        ("adjoint solve", report.adjoint_status, report.adjoint_residual, report.adjoint_steps),
    )
    return " ".join(
        f"The {name} ended with status {status.name} after {int(steps)} steps at a relative residual of "
        f"{float(residual):.2e}: {REMEDIES[Code[status.name]]}."
        for name, status, residual, steps in solves
        if not bool(status.ok)
    )


def act(engine: Engine, report: Report) -> None:
    """Raises or warns as the engine's ``on_failure`` says; "skip" and an exhausted "retry" are left to the caller."""
    if not failed(report):
        return
    if engine.on_failure in ("raise", "retry"):
        raise ConvergenceError(describe(report), report)
    if engine.on_failure == "warn":
        warnings.warn(describe(report), stacklevel=3)


def escalations(engine: Engine, solver: Solver) -> Iterator[tuple[str, Engine, Solver]]:
    """What "retry" tries, in order: more inner steps, another linear solver, then a direct one, damped."""
    longer = replace(solver, max_steps=MORE_STEPS * solver.max_steps)
    yield "more inner steps", engine, longer
    if isinstance(engine, Implicit):
        for linear_solve in (GMRES(), Dense(), Dense(damping=1e-8)):
            yield f"the adjoint by bl.{type(linear_solve).__name__}", replace(engine, linear_solve=linear_solve), longer
