"""One compiled outer step: hypergradient, optimiser update, projection, and the best iterate so far."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.engines import Carry, Engine, Point, Report
from bilevel.engines.examination import examined, updated
from bilevel.foundation import trees
from bilevel.foundation.parts import EVALUATION, HYPERGRADIENT, part
from bilevel.foundation.typing import HParams, Key, Params, PyTree, Scalar
from bilevel.task import Task
from bilevel.training.judgement import judge_of
from bilevel.training.optimizer import outer_value, update

DIAGNOSTICS = ("theta", "margin", "weakly_active", "condition", "retries", "skipped")
# A step that leads out of the solvable region is halved. Growth by 5/4 undoes a halving in three steps, so that a run
# along the border of the region fails at every third step only.
GROWTH = 1.25


class Best(NamedTuple):
    """The iterate with the lowest loss so far, on the second hold-out where there is one, else on the outer batch if it
    is the same at every step. Losses on different batches are not comparable, so no iterate is chosen by them."""

    hparams: HParams
    params: Params
    loss: Scalar
    step: jax.Array


class TrainState(NamedTuple):
    """The state that the next step needs."""

    hparams: HParams
    optimizer: optax.OptState
    carry: Carry
    key: Key
    step: jax.Array
    best: Best
    skipped: jax.Array
    previous: HParams  # the hyperparameters of the last usable hypergradient
    scale: Scalar  # the share of the optimiser's step that is taken; below 1 after halved steps
    sensed: PyTree  # for each leaf of the hyperparameters, whether its hypergradient was ever nonzero


class Evaluation(NamedTuple):
    """The findings of one outer step at the hyperparameters that it started from."""

    value: Scalar
    grad: HParams
    grad_norm: jax.Array
    step_norm: jax.Array  # the norm of the change of the hyperparameters
    report: Report
    measured: dict[str, Any]
    zeros: jax.Array  # unknowns that are exactly zero: the size of the face, for sparse solutions
    zeros_changed: jax.Array  # unknowns that became zero or nonzero since the step before
    halvings: jax.Array  # halvings of the last step before this hypergradient was usable


def point_of(task: Task, key: Key, step: jax.Array, hparams: HParams) -> Point:
    """The point of step ``step``: its batches, and a key of its own where there is no warm start."""
    for_batches, for_init = jax.random.split(key)
    inner_batch, outer_batch = task.batches(for_batches, step)
    for_init = for_init if task.warm_start else jax.random.fold_in(for_init, step)
    return Point(hparams, inner_batch, outer_batch, for_init)


def first_point(task: Task, key: Key) -> Point:
    """The point of the first step of a run with this key."""
    for_hparams, key = jax.random.split(key)
    hparams = task.feasible(trees.differentiable(task.init_hparams(for_hparams), "init_hparams(key)"))
    return point_of(task, key, jnp.int32(0), hparams)


def first_state(task: Task, optimizer: optax.GradientTransformation, engine: Engine, key: Key) -> TrainState:
    """The state before the first step; a pure function of the key."""
    for_hparams, key = jax.random.split(key)
    hparams = task.feasible(trees.differentiable(task.init_hparams(for_hparams), "init_hparams(key)"))
    carry = engine.first_carry(task, point_of(task, key, jnp.int32(0), hparams))
    infinity = jnp.full((), jnp.inf, jnp.result_type(float))
    best = Best(hparams, task.inner.primal(carry.params), infinity, jnp.int32(-1))
    return TrainState(
        hparams=hparams,
        optimizer=trees.strong(optimizer.init(hparams)),
        carry=carry,
        key=key,
        step=jnp.int32(0),
        best=best,
        skipped=jnp.int32(0),
        previous=hparams,
        scale=jnp.ones_like(infinity),
        sensed=jax.tree.map(lambda _: jnp.bool_(False), hparams),
    )


def outer_step(
    task: Task, optimizer: optax.GradientTransformation, engine: Engine, state: TrainState
) -> tuple[TrainState, Evaluation]:
    """The state after one step. A step whose hypergradient failed, or whose update is not finite, changes neither
    hyperparameters nor optimiser. Where the engine only warns of a failed solve, a finite gradient is used."""
    point = point_of(task, state.key, state.step, state.hparams)
    with part(HYPERGRADIENT):  # what is no inner solve and no estimate in it
        value, grad, report = examined(engine, task, point, state.carry)
    with part(EVALUATION):
        measured = task.measured(report.params, state.hparams, (point.inner_batch, point.outer_batch))
    value_fn = outer_value(engine, task, point, report.carry)
    updates, after = update(optimizer, (value, grad), state.optimizer, state.hparams, value_fn)
    updates = jax.tree.map(lambda leaf: (state.scale * leaf).astype(leaf.dtype), updates)
    moved = task.feasible(optax.apply_updates(state.hparams, updates))
    report = updated(report, moved)
    numbers = ~jnp.any(jnp.stack(jax.tree.leaves(trees.not_finite((grad, moved)))))
    usable = (report.status.ok | (engine.on_failure == "warn")) & numbers
    report = replace(report, skipped=(~usable).astype(jnp.int32))
    zeros = trees.zeros(report.params), trees.zeros_changed(task.inner.primal(state.carry.params), report.params)
    step_norm = jnp.where(usable, trees.norm(trees.subtract(moved, state.hparams)), 0)

    judged = _judged(task, state, value, measured)
    here = Best(state.hparams, report.params, judged, state.step)
    sensed = jax.tree.map(lambda before, leaf: before | (usable & jnp.any(leaf != 0)), state.sensed, grad)
    state = TrainState(
        hparams=trees.select(usable, moved, state.hparams),
        optimizer=trees.strong(trees.select(usable, after, state.optimizer)),
        carry=trees.select(usable, report.carry, state.carry),
        key=state.key,
        step=state.step + 1,
        best=trees.select(usable & (judged < state.best.loss), here, state.best),
        skipped=state.skipped + ~usable,
        previous=trees.select(usable, state.hparams, state.previous),
        scale=jnp.where(usable, jnp.minimum(GROWTH * state.scale, 1), state.scale),
        sensed=sensed,
    )
    return state, Evaluation(value, grad, trees.norm(grad), step_norm, report, measured, *zeros, jnp.int32(0))


def _judged(task: Task, state: TrainState, value: Scalar, measured: dict[str, Any]) -> Scalar:
    """The loss that compares this iterate with others; infinite where losses are not comparable."""
    chosen_by = judge_of(task, state.key, measured)
    loss = {"stop/loss": measured.get("stop/loss"), "outer/loss": value}.get(chosen_by, jnp.inf)
    return jnp.asarray(loss, state.best.loss.dtype)


def metrics_of(evaluation: Evaluation) -> dict[str, Any]:
    """One line of the record, as a flat dict for people."""
    report = evaluation.report
    return {
        "outer/loss": evaluation.value,
        "outer/grad_norm": evaluation.grad_norm,
        "outer/step_norm": evaluation.step_norm,
        "outer/halvings": evaluation.halvings,
        "outer/status": report.outer_status.name,
        "inner/residual": report.inner_residual,
        "inner/steps": report.inner_steps,
        "inner/tol": report.inner_tol,
        "inner/status": report.inner_status.name,
        "inner/zeros": evaluation.zeros,
        "inner/zeros_changed": evaluation.zeros_changed,
        "adjoint/residual": report.adjoint_residual,
        "adjoint/steps": report.adjoint_steps,
        "adjoint/tol": report.adjoint_tol,
        "adjoint/status": report.adjoint_status.name,
        "error_estimate": report.error_estimate,
        "error_grade": report.error_grade,
        "error_inner": report.error_inner,
        "error_adjoint": report.error_adjoint,
        **{f"engine/{name}": getattr(report, name) for name in DIAGNOSTICS},
        **{f"counts/{name}": number for name, number in report.counts._asdict().items()},
        **evaluation.measured,
    }
