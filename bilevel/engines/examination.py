"""What is looked at around a hypergradient beside its two solves: whether every number is one."""

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
    """The engine's hypergradient, with a report that has looked at every number around it: `Undefined`.

    A stochastic engine differentiates at the params of the carry, so there its inner loss is looked at too: the forward
    pass is then a part of what is computed anyway.
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
    # The value does not need the adjoint solve, and a cotangent of NaN makes that fail.
    report = _judged(report, undefined.value, report.inner_status)
    return value, grad, _judged(report, undefined.gradient, report.solved)


def updated(report: Report, moved: HParams) -> Report:
    """The report after the optimiser's step, which is looked at too."""
    assert report.undefined is not None, "only what was examined is updated"
    undefined = report.undefined._replace(update=trees.not_finite(moved))
    return _judged(replace(report, undefined=undefined), undefined.update, report.solved)


def _judged(report: Report, flags: PyTree, solved: Status) -> Report:
    """With the outer level nonfinite where a flag is set and what it rests on was ``solved``: what follows from a
    failed solve is no failure of its own."""
    outer = Status(jnp.where(solved.ok, _nonfinite_if(flags).code, Code.converged))
    return replace(report, outer_status=report.outer_status.worse(outer))


def _nonfinite_if(flags: PyTree) -> Status:
    found = jnp.any(jnp.stack(jax.tree.leaves(flags)))
    return Status.of(jnp.where(found, Code.nonfinite, Code.converged))
