"""For each status of each solve, and for each cause: the settings that cure it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from bilevel.foundation.status import REMEDIES, Code
from bilevel.verification.record import Record

FAR = 100.0  # longer outer steps are a mistake, because neither a hyperparameter nor its logarithm is so large
SMALL = 2000  # unknowns up to which a dense factorisation is a cure


def unchanged(record: Record) -> tuple[str, ...]:
    """Stands for a cause that no setting cures."""
    return ()


class Cause(NamedTuple):
    """The meaning and cure of a status of one solve; ``overrides`` depends on the settings of the run."""

    name: str
    cure: str
    overrides: Callable[[Record], tuple[str, ...]] = unchanged


def more_steps(record: Record) -> tuple[str, ...]:
    """Ten times the inner steps, where the settings know them."""
    for place in ("solver", "task"):
        steps = record.setting(f"{place}.max_steps")
        if steps is not None:
            return (f"{place}.max_steps={10 * int(steps)}",)
    return ("solver=auto", "solver.max_steps=100000")


def another_adjoint(record: Record) -> tuple[str, ...]:
    """A direct solver where the system is small, else a better preconditioned iteration with more steps."""
    if record.summary.get("unknowns", 0) <= SMALL:
        return ("engine=implicit_dense",)
    steps = 10 * int(record.setting("engine.linear_solve.max_steps", 1000))
    preconditioner = "+engine.linear_solve.preconditioner._target_=bilevel.RandomizedNystrom"
    return ("engine=implicit_cg", f"engine.linear_solve.max_steps={steps}", preconditioner)


def smaller_steps(record: Record) -> tuple[str, ...]:
    """A tenth of the outer step.

    Where steps were longer than hyperparameters can be large, the rate with which the longest step would have had
    length 1.
    """
    rate = record.setting("optimizer.learning_rate")
    if not isinstance(rate, int | float):
        return ()
    longest = max((step for step in record.series("outer/step_norm") if math.isfinite(step)), default=0.0)
    if longest > FAR:
        return (f"optimizer.learning_rate={10 ** math.floor(math.log10(rate / longest)):g}",)
    return (f"optimizer.learning_rate={rate / 10:g}",)


def steadier(record: Record) -> tuple[str, ...]:
    """For a diverged inner iteration: a tenth of its fixed step, or a solver with a search."""
    for place in ("solver.step_size", "engine.step_size"):
        step = record.setting(place)
        if isinstance(step, int | float):
            return (f"{place}={step / 10:g}",)
    return ("solver=auto",)


def steadier_adjoint(record: Record) -> tuple[str, ...]:
    step = record.setting("engine.adjoint_step")
    return ("engine=implicit",) if step is None else (f"engine.adjoint_step={step / 10:g}",)


def double(record: Record) -> tuple[str, ...]:
    return ("task.precision=float64",) if record.setting("task.precision") == "float32" else ()


def tighter(record: Record) -> tuple[str, ...]:
    """A thousandth of the tolerance of the solves whose settings are known."""
    known = [place for place in ("solver.tol", "engine.linear_solve.tol", "task.tol") if record.setting(place)]
    found = tuple(f"{place}={max(float(record.setting(place)) / 1000, 1e-14):g}" for place in known)
    return found if "solver.tol" in known or "task.tol" in known else ("solver=auto", "solver.tol=1e-12", *found)


def hold_out(record: Record) -> tuple[str, ...]:
    """Patience, on a second hold-out, which is created where there is none; shrinkage where the task offers it."""
    stop, validation = record.setting("task.stop"), record.setting("task.validation")
    patience = () if record.setting("trainer.patience", 0) else ("trainer.patience=10",)
    made = (f"task.stop={validation // 2}",) if stop == 0 and validation else ()
    shrinkage = ("task.shrinkage=3e-3",) if record.setting("task.shrinkage") == 0 else ()
    return (*made, *patience, *shrinkage)


BIASED = "Use an engine without a bias, or let engine.accuracy=estimate (or `bilevel command=check`) measure it"
CAUSES: dict[tuple[str, Code], Cause] = {
    ("inner", Code.converged): Cause("solved", REMEDIES[Code.converged]),
    ("inner", Code.truncated): Cause("stopped by design", BIASED, lambda record: ("engine=implicit",)),
    ("adjoint", Code.converged): Cause("solved", REMEDIES[Code.converged]),
    ("adjoint", Code.truncated): Cause("stopped by design", BIASED, lambda record: ("engine=implicit",)),
    ("inner", Code.max_steps): Cause("too few inner steps", "Let the inner solver go on", more_steps),
    ("inner", Code.stalled): Cause("inner solve at the floor of its precision", REMEDIES[Code.stalled], double),
    ("inner", Code.indefinite): Cause(
        "indefinite Hessian in the inner solver", "Use a solver that descends", lambda record: ("solver=lbfgs",)
    ),
    ("inner", Code.singular): Cause(
        "singular inner problem", REMEDIES[Code.singular], lambda record: ("solver=lbfgs",)
    ),
    ("inner", Code.infeasible): Cause("contradicting constraints", REMEDIES[Code.infeasible]),
    ("inner", Code.unbounded): Cause("inner loss without a lower bound", REMEDIES[Code.unbounded]),
    ("inner", Code.diverged): Cause("diverging inner solver", "Take smaller inner steps", steadier),
    ("inner", Code.nonfinite): Cause("inner solve left the numbers", REMEDIES[Code.nonfinite], smaller_steps),
    ("adjoint", Code.max_steps): Cause("stalled adjoint", "Solve the adjoint by another method", another_adjoint),
    ("adjoint", Code.stalled): Cause("adjoint at the floor of its precision", REMEDIES[Code.stalled], double),
    ("adjoint", Code.indefinite): Cause(
        "indefinite Hessian", REMEDIES[Code.indefinite], lambda record: ("engine=implicit_minres",)
    ),
    ("adjoint", Code.singular): Cause(
        "singular adjoint system",
        "The outer loss sees what the inner loss does not determine: regularise it, or damp the system",
        lambda record: ("engine=implicit_dense", "engine.linear_solve.damping=1e-6"),
    ),
    ("adjoint", Code.infeasible): Cause("contradicting constraints", REMEDIES[Code.infeasible]),
    ("adjoint", Code.unbounded): Cause("inner loss without a lower bound", REMEDIES[Code.unbounded]),
    ("adjoint", Code.diverged): Cause(
        "diverging adjoint", "Use a solver that converges on any system, or smaller steps", steadier_adjoint
    ),
    ("adjoint", Code.nonfinite): Cause("adjoint left the numbers", REMEDIES[Code.nonfinite], smaller_steps),
}
