"""What follows from a hypergradient that failed: raise, warn, retry or skip."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.engines import Engine, Report
from bilevel.foundation.status import REMEDIES, Code, ConvergenceError
from bilevel.foundation.typing import HParams, PyTree
from bilevel.solvers import Solver
from bilevel.task import Task

MORE_STEPS = 10
LOG = logging.getLogger("bilevel")
Found = TypeVar("Found")


def failed(report: Report) -> bool:
    """Whether a result cannot be used (in any lane): a solve failed, or a number is not finite."""
    return not bool(report.status.ok.all())


def describe(report: Report, engine: Engine, task: Task, hparams: HParams) -> str:
    """What is not finite and one sentence a failing solve, with residual and remedy (the engine's own, if it has one).

    Only reads the outer loss and the prior where both solves ended well: after a failed one they follow from it.
    """
    solves = (
        ("inner solve", report.inner_status, report.inner_residual, report.inner_steps),
        ("adjoint solve", report.adjoint_status, report.adjoint_residual, report.adjoint_steps),
    )
    told = [
        f"The {name} ended with status {status.name} after {int(steps.max())} steps at a relative residual of "
        f"{float(residual.max()):.2e}: {engine.remedy or REMEDIES[Code[status.name]]}."
        for name, status, residual, steps in solves
        if not bool(status.ok.all())
    ]
    if report.undefined is not None and bool(report.undefined.loss.all() & jnp.isfinite(report.inner_residual).all()):
        return NO_LOSS
    return " ".join(told) or not_finite(report, task, hparams)


NO_LOSS = (
    "The inner loss is not a finite number where the inner solve ended, though its gradient is: look for an average "
    "over a batch without samples, a logarithm of 0 or an overflow in it."
)
ZERO_ROOT = (
    "look for roots, norms, standard deviations, logarithms and divisions at zero (jnp.sqrt, jnp.linalg.norm and "
    "jnp.std have no derivative there), or begin at other hyperparameters"
)


def not_finite(report: Report, task: Task, hparams: HParams) -> str:
    """Which number around the hypergradient is not finite although both solves ended well, and whose it is."""
    undefined = report.undefined
    assert undefined is not None, "a status of the outer level comes with what it was read from"
    names = leaves_where(undefined.gradient)
    if bool(undefined.value.any()) or names:
        value, slope = jax.value_and_grad(task.prior)(hparams)
        own = not np.isfinite(value) or not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
        what = f"derivative with respect to {', '.join(names)}" if names else "value"
        return f"The {what} of the {'prior' if own else 'outer loss'} is not a finite number: {ZERO_ROOT}."
    return (
        f"The optimiser's step made {', '.join(leaves_where(undefined.update))} NaN or infinite though the gradient is "
        "finite: take smaller steps, or hyperparameters of a wider type (in float16 the epsilon of Adam is 0)."
    )


def leaves_where(flags: PyTree) -> list[str]:
    """The names of the leaves whose flag is set: "hparams['scale']"."""
    return [
        f"hparams{jax.tree_util.keystr(path)}"
        for path, flag in jax.tree_util.tree_leaves_with_path(flags)
        if bool(np.any(flag))
    ]


def with_retries(
    engine: Engine, solver: Solver, attempt: Callable[[Engine, Solver], tuple[Report, Found]]
) -> tuple[Report, Found]:
    """``attempt(engine, solver)``; where a solve failed and the policy is "retry" also with what is harder, until one
    can be used. The report counts the retries and all their work. A number that is not finite although both solves
    ended well is no reason to solve again.
    """
    report, found = attempt(engine, solver)
    if engine.on_failure != "retry" or bool(report.solved.ok.all()):
        return report, found
    spent = report.counts
    for number, (name, harder, longer) in enumerate(escalations(engine, solver), start=1):
        report, found = attempt(harder, longer)
        spent = spent.add(report.counts)
        report = replace(report, retries=jnp.int32(number), counts=spent)
        LOG.warning("Retry %d (%s): status %s", number, name, report.status.name)
        if not failed(report):
            break
    return report, found


def act(engine: Engine, report: Report, sentence: Callable[[], str]) -> None:
    """Raises or warns with ``sentence()`` as the engine's ``on_failure`` says where the report is of a failure; "skip"
    logs, and is counted in the report."""
    if not failed(report):
        return
    if engine.on_failure in ("raise", "retry"):
        tried = f" {int(report.retries.max())} retries did not help." if int(report.retries.max()) else ""
        raise ConvergenceError(sentence() + tried, report)
    if engine.on_failure == "warn":
        warnings.warn(sentence(), stacklevel=3)
    else:
        LOG.warning("Skipped: %s", sentence())


def escalations(engine: Engine, solver: Solver) -> Iterator[tuple[str, Engine, Solver]]:
    """What "retry" tries, in order: tighter, then what the engine offers (damped, another linear solver, dense)."""
    longer = replace(solver, max_steps=MORE_STEPS * solver.max_steps)  # type: ignore[type-var]
    yield "more inner and adjoint steps", _longer(engine), longer
    for name, harder in engine.harder():
        yield name, harder, longer


def _longer(engine: Engine) -> Engine:
    """The engine with more steps for its linear solver, where it has one that counts steps."""
    settings: Any = engine
    if not any(field.name == "linear_solve" for field in fields(settings)):
        return engine
    linear_solve = settings.linear_solve
    if not any(field.name == "max_steps" for field in fields(linear_solve)):
        return engine
    return replace(settings, linear_solve=replace(linear_solve, max_steps=MORE_STEPS * linear_solve.max_steps))
