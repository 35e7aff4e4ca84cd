"""What follows from a solve that failed: raise, warn, retry or skip."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace

from bilevel.engines import Engine, Report
from bilevel.foundation.status import REMEDIES, Code, ConvergenceError
from bilevel.solvers import Solver

MORE_STEPS = 10
LOG = logging.getLogger("bilevel")


def failed(report: Report) -> bool:
    """Whether a solve ended in a way that its result cannot be used (in any lane)."""
    return not bool(report.status.ok.all())


def describe(report: Report, engine: Engine | None = None) -> str:
    """One sentence a failing solve, with its residual and the remedy (the engine's own, where it has one)."""
    solves = (
        ("inner solve", report.inner_status, report.inner_residual, report.inner_steps),
        ("adjoint solve", report.adjoint_status, report.adjoint_residual, report.adjoint_steps),
    )

    def remedy(code: Code) -> str:
        own = (engine.remedy or engine.advice(code)) if engine is not None else ""
        return own or REMEDIES[code]

    return " ".join(
        f"The {name} ended with status {status.name} after {int(steps.max())} steps at a relative residual of "
        f"{float(residual.max()):.2e}: {remedy(Code[status.name])}."
        for name, status, residual, steps in solves
        if not bool(status.ok.all())
    )


def act(engine: Engine, report: Report) -> None:
    """Raises or warns as the engine's ``on_failure`` says; "skip" logs, and is counted in the report."""
    if not failed(report):
        return
    sentence = describe(report, engine)
    if engine.on_failure in ("raise", "retry"):
        tried = f" {int(report.retries.max())} retries did not help." if engine.on_failure == "retry" else ""
        raise ConvergenceError(sentence + tried, report)
    if engine.on_failure == "warn":
        warnings.warn(sentence, stacklevel=3)
    else:
        LOG.warning("Skipped: %s", sentence)


def escalations(engine: Engine, solver: Solver) -> Iterator[tuple[str, Engine, Solver]]:
    """What "retry" tries, in order: tighter, then what the engine offers (damped, another linear solver, dense)."""
    longer = replace(solver, max_steps=MORE_STEPS * solver.max_steps)  # type: ignore[type-var]
    yield "more inner and adjoint steps", _longer(engine), longer
    for name, harder in engine.harder():
        yield name, harder, longer


def _longer(engine: Engine) -> Engine:
    """The engine with more steps for its linear solver, where it has one that counts steps."""
    if not any(field.name == "linear_solve" for field in fields(engine)):  # type: ignore[arg-type]
        return engine
    linear_solve = engine.linear_solve  # type: ignore[attr-defined]
    if not any(field.name == "max_steps" for field in fields(linear_solve)):
        return engine
    return replace(engine, linear_solve=replace(linear_solve, max_steps=MORE_STEPS * linear_solve.max_steps))  # type: ignore[call-arg]
