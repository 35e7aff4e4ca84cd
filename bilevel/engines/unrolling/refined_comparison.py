"""The error of the gradient of an engine without an adjoint solve: its distance from a refined implicit gradient."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from bilevel.engines.base import GRADES, Point, Report
from bilevel.engines.implicit_function.accuracy import SAFETY
from bilevel.engines.implicit_function.implicit import Implicit
from bilevel.foundation import trees
from bilevel.foundation.typing import HParams
from bilevel.solvers import Outcome
from bilevel.task import Task

ACCURACIES = ("residual", "estimate")


def check_accuracy(accuracy: str) -> None:
    if accuracy not in ACCURACIES:
        raise ValueError(f"accuracy={accuracy!r} is not one of {', '.join(ACCURACIES)}.")


def audited(task: Task, point: Point, outcome: Outcome, grad: HParams, report: Report) -> Report:
    """The report with an estimate of the error of ``grad`` against the derivative of the inner solution.

        ||grad - exact|| <= 1.25 ||grad - g+|| + ||g+ - exact||

    with g+ the refined implicit gradient at the end of the inner solve, and the estimate of its own error. The result
    has the grade of that estimate and costs two more adjoint solves. A learned start and learned step sizes act through
    the steps alone: the inner solution has no derivative with respect to them, and neither has g+.
    """
    frozen: Outcome = jax.lax.stop_gradient(outcome)
    _, refined, judged = Implicit(refine=True).at_solution(task, point, frozen)
    distance = SAFETY * trees.norm(trees.subtract(grad, refined))
    work = jax.tree.map(lambda all_of, inner: all_of - inner, judged.counts, frozen.counts)
    return replace(
        report,
        error_estimate=distance + judged.error_estimate,
        error_inner=judged.error_inner,
        error_adjoint=distance,
        grade=jnp.where(judged.adjoint_status.ok, judged.grade, GRADES.index("residual")).astype(jnp.int32),
        theta=judged.theta,
        margin=judged.margin,
        weakly_active=judged.weakly_active,
        condition=judged.condition,
        counts=report.counts.add(work),
    )
