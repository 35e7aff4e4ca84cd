"""One outer step on the host. After a failure it tries harder solves where the policy says so, then shorter steps;
then the policy decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.batches import same_at_every_step
from bilevel.engines import Engine, Report
from bilevel.engines.failure import LOG, with_retries
from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.task import Task
from bilevel.training.outer_step import Evaluation, TrainState

Advance: TypeAlias = Callable[[Engine, Task, TrainState], tuple[TrainState, Evaluation]]
MOST_HALVINGS = 10  # to a thousandth of the step: a failure that near to its start is a failure at the start too
LEAP = 100.0  # relative to the hyperparameters (at least 1): an optimiser with a sensible rate does not step so far
BORDER = 1e-3  # relative to the hyperparameters (at least 1): so short a step out of the region has located its border


def attempted(advance: Advance, engine: Engine, task: Task, start: TrainState) -> tuple[TrainState, Evaluation]:
    """The outer step from ``start``.

    Where a solve failed it tries what "retry" offers. Where the last step left the region in which the problem can be
    solved, it starts again nearer to the last usable hyperparameters.
    """

    def attempt(tried: Engine, harder: Task) -> tuple[Report, tuple[TrainState, Evaluation]]:
        state, evaluation = advance(tried, harder, start)
        return evaluation.report, (state, evaluation)

    report, (state, evaluation) = with_retries(engine, task, attempt)
    evaluation = evaluation._replace(report=report)
    if not _led_out(engine, report, start):
        return state, evaluation
    return _nearer(advance, engine, task, start, (state, evaluation))


def _led_out(engine: Engine, report: Report, start: TrainState) -> bool:
    """Whether a shorter step may cure the failure. It does not cure too few inner steps: "raise" and "retry" tell the
    user to take more, and under "skip" the same point would come again and again."""
    if not int(report.skipped):
        return False
    too_few = int(report.status.code) == Code.max_steps and engine.on_failure != "skip"
    pairs = zip(jax.tree.leaves(start.hparams), jax.tree.leaves(start.previous), strict=True)
    return not too_few and any(not np.array_equal(here, before) for here, before in pairs)


def _nearer(
    advance: Advance, engine: Engine, task: Task, start: TrainState, failed: tuple[TrainState, Evaluation]
) -> tuple[TrainState, Evaluation]:
    """The first halved step that can be used; its counts include the work of all trials.

    Where none can be used, the failure and the state at the shortest step.
    """
    told, counts = failed[1].report.status.name, failed[1].report.counts
    state, evaluation = failed
    for number in range(1, MOST_HALVINGS + 1):
        start = _halved(task, start)
        state, evaluation = advance(engine, task, start)
        counts = counts.add(evaluation.report.counts)
        if not int(evaluation.report.skipped):
            LOG.warning(
                "Outer step %d led to where the status is %s: a step of %g of its length is taken instead.",
                int(start.step),
                told,
                0.5**number,
            )
            report = replace(evaluation.report, counts=counts)
            return state, evaluation._replace(report=report, halvings=jnp.int32(number))
    report = replace(failed[1].report, counts=counts)
    return state, failed[1]._replace(report=report, halvings=jnp.int32(MOST_HALVINGS))


def at_border(advance: Advance, engine: Engine, task: Task, start: TrainState, evaluation: Evaluation) -> bool:
    """Whether the run has located the border of the solvable region and can go no further. Then the shortest step leads
    out of the region while the hyperparameters at its start still work, on the batch of this step too."""
    if not (int(evaluation.report.skipped) and int(evaluation.halvings)):
        return False
    length = 0.5**MOST_HALVINGS * float(trees.norm(trees.subtract(start.hparams, start.previous)))
    if length > BORDER * max(float(trees.norm(start.previous)), 1.0):
        return False
    if task.warm_start and same_at_every_step(task.batches, start.key):
        return True  # nothing but the hyperparameters has changed since they were usable
    _, again = advance(engine, task, start._replace(hparams=start.previous))
    return not int(again.report.skipped)


def leap(start: TrainState) -> str:
    """The sentence for a failure after a step that was far too long, because that step is then the cause; else ""."""
    moved = float(trees.norm(trees.subtract(start.hparams, start.previous)))
    size = float(trees.norm(start.previous))
    if not moved > LEAP * max(size, 1.0):
        return ""
    return (
        f"the step before it moved the hyperparameters by {moved:.1e}, from a size of {size:.1e}, to where the problem "
        "cannot be solved: take outer steps of the size of the hyperparameters (optimizer.learning_rate is about the "
        "length of Adam's)."
    )


def _halved(task: Task, start: TrainState) -> TrainState:
    """The point halfway back to the last usable hyperparameters."""
    halfway = jax.tree.map(
        lambda here, before: (before + 0.5 * (here - before)).astype(here.dtype), start.hparams, start.previous
    )
    return start._replace(hparams=trees.strong(task.feasible(halfway)), scale=0.5 * start.scale)
