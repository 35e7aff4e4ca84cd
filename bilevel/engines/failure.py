"""What follows from a solve that failed: raise, warn, retry or skip."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace

from bilevel.engines import Engine, Report
from bilevel.engines.remedies import adjoint_remedy, inner_remedy
from bilevel.foundation.status import Code, ConvergenceError
from bilevel.solvers import Solver

MORE_STEPS = 10
DERIVATIVE = "look for roots, norms or divisions at zero in the inner loss, or take fewer or shorter steps"
LOG = logging.getLogger("bilevel")


def failed(report: Report) -> bool:
    """Whether a solve ended in a way that its result cannot be used (in any lane)."""
    return not bool(report.status.ok.all())


def describe(report: Report, engine: Engine | None = None, solver: Solver | None = None) -> str:
    """One sentence a failing solve, with its residual and the remedy (the engine's own, where it has one)."""
    own = engine.remedy if engine is not None else ""
    sentences = []
    if not bool(report.inner_status.ok.all()):
        code, steps = Code[report.inner_status.name], int(report.inner_steps.max())
        sentences.append(
            f"The inner solve ended with status {code.name} after {steps} steps at a relative residual of "
            f"{float(report.inner_residual.max()):.2e}: {own or inner_remedy(code, steps, solver)}."
        )
    if not bool(report.adjoint_status.ok.all()):
        code = Code[report.adjoint_status.name]
        if engine is not None and not engine.has_adjoint:
            sentences.append(f"The derivative through the steps is {code.name}: {own or DERIVATIVE}.")
        else:
            steps, residual = int(report.adjoint_steps.max()), float(report.adjoint_residual.max())
            sentences.append(
                f"The adjoint solve ended with status {code.name} after {steps} steps at a relative residual of "
                f"{residual:.2e}: {own or adjoint_remedy(code, engine)}."
            )
    return " ".join(sentences)


def act(engine: Engine, report: Report, solver: Solver | None = None) -> None:
    """Raises or warns as the engine's ``on_failure`` says; "skip" logs, and is counted in the report."""
    if not failed(report):
        return
    sentence = describe(report, engine, solver)
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
