"""The end of a run: the iterate that is its result, the summary, and the warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from bilevel.engines import Engine
from bilevel.engines.failure import LOG, describe, leaves_where
from bilevel.foundation import trees
from bilevel.foundation.stated import checked_baselines, checked_metrics
from bilevel.loggers.base import plain
from bilevel.task import Headline, Task, anywhere
from bilevel.training.found import found_hparams, path_of
from bilevel.training.headline import OUTER, headline, key
from bilevel.training.judgement import judge_of, mean_outer_loss, projected_gradient_norm
from bilevel.training.outer_step import Evaluation, TrainState, metrics_of, point_of
from bilevel.training.result import Result, own, summarize

LAST = "last step"
TAIL = 10  # where each step draws new tasks, the mean outer loss of so many steps is the loss of the last iterate
FAILED = "failed"
STANDSTILL = 3  # over so many last steps the movement of a run is measured
UNMOVED = 1e-5  # a run that moved further still moves; relative to the hyperparameters (at least 1)
STEEP = 1e-2  # a projected gradient above this share of the run's largest gradient is not at a stationary point


def concluded(
    task: Task,
    engine: Engine,
    metrics: list[dict[str, Any]],
    end: tuple[TrainState, list[Evaluation]],
    told: Mapping[str, Any],
) -> Result:
    """The result of a run from its record, the looks at its end (the last hyperparameters come last) and the facts
    ``told`` of it. Without one comparable loss the last iterate is the result; without one usable step the run failed.
    """
    state, looks = end
    last = looks[-1]
    # A look leaves the hyperparameters that it was taken at in ``previous``; a skipped look leaves them in ``hparams``.
    taken = state.hparams if int(last.report.skipped) else state.previous
    judge = judge_of(task, state.key, last.measured)
    chosen = int(state.best.step) >= 0
    best = state.best if chosen else state.best._replace(hparams=taken, params=last.report.params)
    lines = [plain(metrics_of(look)) for look in looks]
    projected = projected_gradient_norm(task, taken, last.grad)
    summary = {
        **told,
        "chosen_by": judge if chosen else LAST,
        **summarize(metrics, lines, int(state.best.step)),
        **({} if judge else {"best_outer_loss": _mean_loss(task, state, metrics, last, taken)}),
        "final_grad_norm": lines[-1]["outer/grad_norm"],
        "projected_grad_norm": projected,
        "blocked": blocked(task, metrics, projected, float(trees.norm(taken))),
        "steps_shortened": sum(int(line["outer/halvings"] > 0) for line in metrics),
        "hparams": path_of(best.hparams),
        "initial_hparams": _start_of(metrics),
        "last_hparams": path_of(taken),
        **found_hparams(task, best.hparams),
        "without_gradient": _without_gradient(state, told.get("held_constant", [])),
    }
    if int(last.report.skipped) and all(line["engine/skipped"] for line in metrics):
        why = describe(last.report, engine, task, point_of(task, state.key, state.step - 1, taken))
        summary |= {"status": FAILED, "failed_because": f"None of {len(metrics)} outer steps could be used. {why}"}
    _tell(summary, judge)
    return Result(best.hparams, best.params, taken, last.report.params, metrics, plain(summary))


def broken_off(task: Task, metrics: list[dict[str, Any]], state: TrainState, told: Mapping[str, Any]) -> Result:
    """The result so far of a run that was interrupted, from its record and its state alone, because somebody waits.

    The figures named ``final_`` and ``last_`` are those of the last step that was taken: the hyperparameters behind it
    were not looked at yet.
    """
    best, last = state.best, task.inner.primal(state.carry.params)
    chosen = int(best.step) >= 0
    hparams, params = (best.hparams, best.params) if chosen else (state.hparams, last)
    summary = dict(told)
    if metrics:
        judge = judge_of(task, state.key, metrics[-1])
        summary |= {
            "chosen_by": judge if chosen else LAST,
            **summarize(metrics, [], int(best.step)),
            **({} if judge else {"best_outer_loss": _mean_of_last(metrics)}),
            "hparams": path_of(hparams),
            "initial_hparams": _start_of(metrics),
            "last_hparams": path_of(state.hparams),
            **found_hparams(task, hparams),
        }
    result = Result(hparams, params, state.hparams, last, metrics, plain(summary))
    return with_headline(result, task) if metrics else result


def with_headline(result: Result, task: Task) -> Result:
    """The result with the headline of what is known before the baselines are: the stated metric if the steps measured
    it, else the one of a task that states none."""
    metric = task.headline.metric
    known = not metric or metric == OUTER or key(metric) in result.summary
    stated = replace(task.headline, against={}) if known else Headline()
    return replace(result, summary={"headline": headline(stated, result.summary), **result.summary})


def with_baselines(result: Result, task: Task) -> Result:
    """The result with the task's costly metrics, its baselines or the findings of its study, and the headline of all
    figures."""
    assessed = checked_metrics(task.assess, task.assess(result.params, result.hparams), "assess")
    found = {**assessed, **checked_baselines(task.baselines, task.baselines())}
    summary = {**result.summary, **plain(own(found, ""))}
    told = {} if summary["status"] == FAILED else headline(task.headline, summary)
    return replace(result, summary={**({"headline": told} if told else {}), **summary})


def _mean_loss(task: Task, state: TrainState, metrics: list[dict[str, Any]], last: Evaluation, taken: Any) -> float:
    """An outer loss of the last iterate that does not depend on which batch was drawn last."""
    mean = mean_outer_loss(task, state.key, last.report.params, taken)
    return _mean_of_last(metrics) if mean is None else mean


def _mean_of_last(metrics: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([line["outer/loss"] for line in metrics[-TAIL:]]))


def _start_of(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The hyperparameters of the first step on record."""
    return {name: value for name, value in metrics[0].items() if name.startswith("hparams")}


def blocked(task: Task, metrics: Sequence[Mapping[str, Any]], projected: float, size: float) -> bool:
    """Whether the steps ended at a point on the border of ``task.feasible`` that is not stationary, because the
    projection undoes each step. It cannot undo a step along the gradient, but it may undo scaled steps (Adam,
    RMSProp)."""
    if task.feasible is anywhere or len(metrics) < STANDSTILL:
        return False
    still = all(line["outer/step_norm"] <= UNMOVED * max(size, 1.0) for line in metrics[-STANDSTILL:])
    largest = max(line["outer/grad_norm"] for line in metrics)
    return still and not any(line["engine/skipped"] for line in metrics[-STANDSTILL:]) and projected > STEEP * largest


def _without_gradient(state: TrainState, held: Sequence[str]) -> list[str]:
    """The leaves whose hypergradient was exactly zero at every usable step, without those that the task ``held``
    constant by ``jax.lax.stop_gradient``."""
    if int(state.skipped) == int(state.step):
        return []
    never = jax.tree.map(lambda sensed: ~np.asarray(sensed), state.sensed)
    return [name for name in leaves_where(never) if name not in held]


def _tell(summary: Mapping[str, Any], judge: str) -> None:
    """Logs the warnings about the run."""
    if summary["status"] == FAILED:
        LOG.error("%s", summary["failed_because"])
        return
    if "stopped_because" in summary:
        LOG.warning("The run ends at the border of where the problem can be solved. %s", summary["stopped_because"])
    if summary["blocked"]:
        LOG.warning(
            "The projection on task.feasible undoes the optimiser's steps at a point that is not stationary: the "
            "projected gradient has the norm %.2e. Use an optimiser whose step is along the gradient, as optax.sgd.",
            summary["projected_grad_norm"],
        )
    if judge == "stop/loss" and summary["chosen_by"] == LAST:
        LOG.warning("stop/loss was not a finite number at any step: the last step is the result.")
    if summary["without_gradient"]:
        LOG.warning(
            "The hypergradient with respect to %s was exactly 0 at every step.", ", ".join(summary["without_gradient"])
        )
