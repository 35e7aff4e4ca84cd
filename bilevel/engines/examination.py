"""The examination of the numbers around a hypergradient, beside its two solves: whether all are finite."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Engine, Point, Report, Undefined
from bilevel.foundation import trees
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import HParams, PyTree, Scalar
from bilevel.task import Task


def examined(engine: Engine, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
    """The engine's hypergradient, whose report says in `Undefined` which numbers around it are not finite.

    A stochastic engine differentiates at the params of the carry, so its inner loss is evaluated there: that costs
    nothing, because the forward pass is computed anyway.
    """
    value, grad, report = engine.hypergradient(task, point, carry)
    params = task.inner.primal(carry.params) if engine.stochastic else report.params
    params, hparams = jax.lax.stop_gradient((params, point.hparams))
    undefined = Undefined(
        value=~jnp.isfinite(value),
        loss=~task.inner.defined(params, hparams, point.inner_batch),
        gradient=trees.not_finite(grad),
        update=jax.tree.map(lambda _: jnp.bool_(False), grad),
    )
    inner = report.inner_status.worse(_nonfinite_if(undefined.loss))
    report = replace(report, inner_status=inner, undefined=undefined)
    # The value is computed without the adjoint solve, because a cotangent of NaN makes that solve fail.
    report = _judged(report, undefined.value, report.inner_status)
    return value, grad, _judged(report, undefined.gradient, report.solved)


def updated(report: Report, moved: HParams) -> Report:
    """The report with the optimiser's step examined too."""
    assert report.undefined is not None, "only what was examined is updated"
    undefined = report.undefined._replace(update=trees.not_finite(moved))
    return _judged(replace(report, undefined=undefined), undefined.update, report.solved)


def _judged(report: Report, flags: PyTree, solved: Status) -> Report:
    """The report whose ``outer_status`` is nonfinite where a flag is set and both solves were ``solved``.

    After a failed solve a number that is not finite is a consequence, not a further failure.
    """
    outer = Status(jnp.where(solved.ok, _nonfinite_if(flags).code, Code.converged))
    return replace(report, outer_status=report.outer_status.worse(outer))


def _nonfinite_if(flags: PyTree) -> Status:
    found = jnp.any(jnp.stack(jax.tree.leaves(flags)))
    return Status.of(jnp.where(found, Code.nonfinite, Code.converged))
