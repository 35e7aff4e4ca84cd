"""The policies for a hypergradient that failed: raise, warn, retry or skip."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.engines import Engine, Point, Report
from bilevel.engines.remedies import adjoint_remedy, inner_remedy
from bilevel.foundation import trees
from bilevel.foundation.settings import changed
from bilevel.foundation.status import Code, ConvergenceError
from bilevel.foundation.typing import PyTree, Scalar
from bilevel.solvers import Solver
from bilevel.task import Task

MORE_STEPS = 10  # as the remedies recommend
NOWHERE = ("nonfinite", "diverged", "infeasible", "unbounded")  # statuses after which an adjoint system has no meaning
DERIVATIVE = "look for roots, norms or divisions at zero in the inner loss, or take fewer or shorter steps"
LOG = logging.getLogger("bilevel")
Found = TypeVar("Found")


def failed(report: Report) -> bool:
    """Whether a result cannot be used, in any lane: a solve failed, or a number is not finite."""
    return not bool(report.status.ok.all())


def describe(report: Report, engine: Engine, task: Task, point: Point) -> str:
    """The number that is not finite, else a sentence for each failing solve with its residual and the remedy,
    preferably the engine's own. The data are examined first, because other numbers that are not finite may follow from
    them. Then comes the outer level, where the inner solve ended well, because a cotangent of NaN makes the adjoint
    solve fail."""
    if data := in_data(point):
        return data
    outer = not_finite(report, task, point) if bool(report.inner_status.ok.all()) else ""
    if outer:
        return outer
    if report.undefined is not None and bool(report.undefined.loss.any() & jnp.isfinite(report.inner_residual).all()):
        return NO_LOSS
    inner = _of_inner_solve(report, engine, task.inner.solver)
    inner = inner and (in_start(task, point) or inner)
    if inner and report.inner_status.name in NOWHERE and not engine.through_steps:
        return inner
    return " ".join(filter(None, (inner, _of_adjoint(report, engine))))


def _of_inner_solve(report: Report, engine: Engine, solver: Solver) -> str:
    if bool(report.inner_status.ok.all()):
        return ""
    code, steps = Code[report.inner_status.name], int(report.inner_steps.max())
    remedy = engine.remedy or engine.advice(code) or inner_remedy(code, steps, solver)
    residual = float(report.inner_residual.max())
    at = f" at a relative residual of {residual:.2e}" if np.isfinite(residual) else ""
    return f"The inner solve ended with status {code.name} after {steps} steps{at}: {remedy}."


def _of_adjoint(report: Report, engine: Engine) -> str:
    if bool(report.adjoint_status.ok.all()):
        return ""
    code = Code[report.adjoint_status.name]
    if engine.through_steps:
        return f"The derivative through the steps is {code.name}: {engine.remedy or DERIVATIVE}."
    return (
        f"The adjoint solve ended with status {code.name} after {int(report.adjoint_steps.max())} steps at a relative "
        f"residual of {float(report.adjoint_residual.max()):.2e}: {engine.remedy or adjoint_remedy(code, engine)}."
    )


def in_data(point: Point) -> str:
    """Which leaf of which batch holds NaN or infinity; "" if none does."""
    for name, batch in (("inner", point.inner_batch), ("outer", point.outer_batch)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                continue
            wrong = int(np.size(leaf) - np.sum(np.isfinite(np.asarray(leaf, np.float64))))
            if wrong:
                return (
                    f"The data of the {name} loss hold NaN or infinity: {wrong} of {np.size(leaf)} entries of the leaf "
                    f"batch{jax.tree_util.keystr(path)}. Leave these samples out, or fill the gaps before the run."
                )
    return ""


def in_start(task: Task, point: Point) -> str:
    """Which leaf of the cold start holds NaN or infinity; "" if none does."""
    wrong = leaves_where(trees.not_finite(task.inner.init(point.key, point.hparams)), "params")
    return f"init(key, hparams) gives NaN or infinity in {', '.join(wrong)}: begin at finite numbers." if wrong else ""


NO_LOSS = (
    "The inner loss is not a finite number where the inner solve ended, though its gradient is: look for an average "
    "over a batch without samples, a logarithm of 0 or an overflow in it."
)
ZERO_ROOT = (
    "look for roots, norms, standard deviations, logarithms and divisions at zero (jnp.sqrt, jnp.linalg.norm and "
    "jnp.std have no derivative there), or begin at other hyperparameters"
)


def not_finite(report: Report, task: Task, point: Point) -> str:
    """Which number of the outer level is not finite, and whether the prior or the outer loss gave it; "" if none is.

    Both are evaluated once more: the cost does not matter where a run ends or a step is skipped.
    """
    params, hparams, batch = report.params, point.hparams, point.outer_batch
    own = _whose("prior", *jax.value_and_grad(task.prior)(hparams), "hparams")
    value, (by_params, by_hparams) = jax.value_and_grad(task.outer_loss, argnums=(0, 1))(params, hparams, batch)
    found = (
        own or _whose("outer loss", value, by_hparams, "hparams") or _whose("outer loss", value, by_params, "params")
    )
    if found:
        return f"The {found} is not a finite number: {ZERO_ROOT}."
    update = leaves_where(report.undefined.update) if report.undefined is not None else []
    if not update:
        return ""
    return (
        f"The optimiser's step made {', '.join(update)} NaN or infinite though the gradient is finite: take smaller "
        "steps, or hyperparameters of a wider type (in float16 the epsilon of Adam is 0)."
    )


def _whose(function: str, value: Scalar, slope: PyTree, argument: str) -> str:
    """ "derivative of the prior with respect to hparams['scale']", if that is not finite."""
    names = leaves_where(trees.not_finite(slope), argument)
    if not bool(jnp.isfinite(value)):
        return f"value of the {function}"
    return f"derivative of the {function} with respect to {', '.join(names)}" if names else ""


def leaves_where(flags: PyTree, argument: str = "hparams") -> list[str]:
    """The names of the leaves whose flag is set: "hparams['scale']"."""
    return [
        f"{argument}{jax.tree_util.keystr(path)}"
        for path, flag in jax.tree_util.tree_leaves_with_path(flags)
        if bool(np.any(flag))
    ]


def with_retries(
    engine: Engine, task: Task, attempt: Callable[[Engine, Task], tuple[Report, Found]]
) -> tuple[Report, Found]:
    """``attempt(engine, task)``. Where a solve failed and the policy is "retry", harder engines and solvers follow
    until a result can be used. The report counts the retries and all their work. A number that is not finite although
    both solves ended well is not retried, because another solve gives it again.
    """
    report, found = attempt(engine, task)
    if engine.on_failure != "retry" or bool(report.solved.ok.all()):
        return report, found
    spent = report.counts
    for number, (name, harder, longer) in enumerate(escalations(engine, task), start=1):
        report, found = attempt(harder, longer)
        spent = spent.add(report.counts)
        report = replace(report, retries=jnp.int32(number), counts=spent)
        LOG.warning("Retry %d (%s): status %s", number, name, report.status.name)
        if not failed(report):
            break
    return report, found


def act(engine: Engine, report: Report, sentence: Callable[[], str]) -> None:
    """Raises or warns with ``sentence()`` where the report says that something failed, as ``on_failure`` of the engine
    asks; "skip" logs the sentence, and the report counts it."""
    if not failed(report):
        return
    if engine.on_failure in ("raise", "retry"):
        tried = f" {int(report.retries.max())} retries did not help." if int(report.retries.max()) else ""
        raise ConvergenceError(sentence() + tried, report)
    if engine.on_failure == "warn":
        warnings.warn(sentence(), stacklevel=3)
    else:
        LOG.warning("Skipped: %s", sentence())


def escalations(engine: Engine, task: Task) -> Iterator[tuple[str, Engine, Task]]:
    """The attempts of "retry" in order: more steps, then the harder engines that this engine offers (damped, another
    linear solver, dense)."""
    solver = task.inner.solver
    longer = task.with_solver(changed(solver, max_steps=MORE_STEPS * solver.max_steps))
    yield "more inner and adjoint steps", engine.longer(MORE_STEPS), longer
    for name, harder in engine.harder():
        yield name, harder, longer
