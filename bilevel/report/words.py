"""The last words of a run: what it achieved, which step is its result, whether its gradient holds, what to try next."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.foundation.readable import counted
from bilevel.loggers.base import FAILED, INTERRUPTED
from bilevel.report.commands import command
from bilevel.report.runs import task_of
from bilevel.training.conclusion import LAST
from bilevel.training.headline import OUTER, short
from bilevel.verification import Record, diagnose
from bilevel.verification.cures import hold_out

CHOSEN = {
    "stop/loss": "it has the lowest loss on the second hold-out (stop/loss)",
    "outer/loss": "it has the lowest outer loss",
    LAST: "the losses of other steps are on other batches and cannot be compared",
}
JUDGED = ("outer/loss", "final_outer_loss")  # in the record, and of the last iterate in the summary
PRECISE = 1e-2  # an error of the hypergradient below this share of its norm does not mislead an optimiser
STILL = 0.1  # a run improves to its end if the chosen step is among this last share
GAIN = 1e-3  # and if this share of all that the loss fell was won there


def achieved(record: Record) -> str:
    """The gain of the run, or the news that it broke off."""
    summary = record.summary
    if head := headline_of(record):
        so_far = f" (interrupted after {counted(len(record.lines), 'outer step')})" if broken_off(record) else ""
        return f"{task_of(record)}: {head['sentence']}{so_far}."
    if summary.get("status") in FAILED:
        done = counted(len(record.lines), "outer step")
        return f"{task_of(record)}: the run {'was ' if broken_off(record) else ''}{summary['status']} after {done}."
    if losses := _losses(record):
        return f"{task_of(record)}: outer loss {short(losses[1])}; {short(losses[0])} at the start."
    return f"{task_of(record)}: {len(record.lines)} outer steps so far."


def broken_off(record: Record) -> bool:
    """Whether the run was interrupted."""
    return record.summary.get("status") == INTERRUPTED


def headline_of(record: Record) -> Mapping[str, Any]:
    """The figure that counts, with its baselines; {} where the run has none."""
    head = record.summary.get("headline")
    return head if isinstance(head, Mapping) else {}


def chosen(record: Record) -> str:
    """Which step is the result, and why; "" where none was chosen yet."""
    by, steps = record.summary.get("chosen_by"), record.summary.get("steps", 0)
    if by not in CHOSEN:
        return ""
    ended = " The run stopped early, out of patience." if record.summary.get("status") == "stopped_early" else ""
    which = "the last step" if by == LAST else f"step {record.summary.get('best_step')} of {steps}"
    if not broken_off(record):
        return f"The result is {which}, because {CHOSEN[by]}.{ended}"
    return f"The result so far is {which}, because {CHOSEN[by]}.{_loss_so_far(record)}"


def _loss_so_far(record: Record) -> str:
    """The least outer loss beside the first one, where they compare and the headline has another figure."""
    losses = _losses(record)
    if not losses or headline_of(record).get("metric") == OUTER or record.summary.get("chosen_by") == LAST:
        return ""
    return f" The outer loss went from {short(losses[0])} down to {short(losses[1])}."


def _losses(record: Record) -> tuple[float, float] | None:
    """The outer loss of the first step and the least one, where the summary has both."""
    first, best = (record.summary.get(f"{when}_outer_loss") for when in ("initial", "best"))
    if isinstance(first, int | float) and isinstance(best, int | float):
        return float(first), float(best)
    return None


def trust(record: Record) -> str:
    """Whether the hypergradients of the run can be trusted, by the estimates of their error; "" without steps."""
    lines = [line for line in record.lines if line.get("outer/grad_norm", math.nan) > 0]
    if not lines:
        return ""
    errors = [line.get("error_estimate", math.nan) / line["outer/grad_norm"] for line in lines]
    if not all(map(math.isfinite, errors)):
        unknown = sum(not math.isfinite(error) for error in errors)
        return (
            f"How far the gradient can be trusted is not known: at {unknown} of {len(errors)} steps there is no "
            "estimate of its error (engine=implicit gives one, and engine.accuracy=estimate for other engines)."
        )
    worst, typical = max(errors), statistics.median(errors)
    measure = f"{size(typical)} of its norm in the median step and {size(worst)} at worst"
    grades = {str(line.get("error_grade")) for line in lines}
    if "residual" in grades:
        return f"The gradient's error is about {measure}: an order of magnitude from residuals, not an estimate."
    claim = "proven" if grades == {"bound"} else "estimated"
    if typical <= PRECISE:
        return f"The gradient can be trusted: its error is {claim} at {measure}."
    return f"The gradient is coarse: its error is {claim} at {measure}."


def size(share: float) -> str:
    """A share for people: a percentage where it is not tiny.

    >>> size(0.0312), size(2.3e-9)
    ('3.1%', '2.3e-09')
    """
    return f"{share:.2g}" if share < 1e-3 else f"{share:.1%}"


def advice(record: Record, given: Sequence[str], folder: str) -> str:
    """One thing to try next: the cure of what went wrong, else the rest of the run or more steps, else a second
    hold-out, else a check."""
    for finding in diagnose(record):
        if finding.overrides:
            return f"{finding.cure}: {command(given, finding.overrides)}"
        return f"{finding.cure} ({finding.cause}: `bilevel command=doctor {shlex.quote(folder)}` says more)"
    if broken_off(record):
        return f"Go on with the run: bilevel resume={shlex.quote(folder)}"
    steps = int(record.summary.get("steps", 0))
    if record.summary.get("status") == "completed" and falling(record):
        more = f"bilevel resume={shlex.quote(folder)} trainer.steps={2 * steps}"
        return f"The loss was still falling at the end, so take more steps: {more}"
    changes = hold_out(record)
    if any(change.startswith("task.stop=") for change in changes):
        return f"Choose the step on data of its own, a second hold-out: {command(given, changes)}"
    checks = command([one for one in given if not one.startswith(("hydra.", "trainer.", "optimizer", "schedule"))], [])
    return f"Compare the engines on a small instance: {checks} command=check"


def falling(record: Record) -> bool:
    """Whether the loss still fell over the last tenth of the steps: its least value is there, and lower than before by
    more than a thousandth of all that it fell."""
    steps, best = int(record.summary.get("steps", 0)), int(record.summary.get("best_step", -1))
    if best < (1 - STILL) * steps:
        return False
    name, last = ("stop/loss", "last_stop_loss") if record.summary.get("chosen_by") == "stop/loss" else JUDGED
    end = record.summary.get(last)
    losses = [*record.series(name), *([float(end)] if isinstance(end, int | float) else [])]
    losses = [loss for loss in losses if math.isfinite(loss)]
    if len(losses) < 2:
        return True
    before = losses[: max(1, int((1 - STILL) * len(losses)))]
    return min(before) - min(losses) > GAIN * (losses[0] - min(losses))


def closing(record: Record, given: Sequence[str], folder: str, report: str) -> list[str]:
    """The last lines of a run; of an interrupted one without what to do next, which its error says."""
    shown = f"Report: {report}" if report else ""
    if broken_off(record):
        return [line for line in (achieved(record), chosen(record), shown) if line]
    found = [achieved(record), chosen(record), trust(record), shown]
    return [*(line for line in found if line), f"Next: {advice(record, given, folder)}"]


def solved_problem(summary: dict[str, Any]) -> str:
    """The problem that was solved, in one sentence."""
    number, unknowns = summary.get("hyperparameters"), summary.get("unknowns")
    sizes = counted(number, "hyperparameter") if isinstance(number, int) else "hyperparameters"
    inside = f" through an inner problem of {counted(unknowns, 'unknown')}" if isinstance(unknowns, int) else ""
    how = f", solved by {summary['solver']}" if "solver" in summary else ""
    return f"{summary.get('task', 'The task')} tunes {sizes}{inside}{how}; gradients by {summary.get('engine', '?')}."
