"""One compiled outer step: hypergradient, optimiser update, projection, and the best iterate so far."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.engines import Carry, Engine, Point, Report
from bilevel.foundation import trees
from bilevel.foundation.stated import checked_metrics
from bilevel.foundation.typing import HParams, Key, Params, Scalar
from bilevel.solvers import Solver
from bilevel.task import Task
from bilevel.training.optimizer import outer_value, update

DIAGNOSTICS = ("theta", "margin", "weakly_active", "condition", "retries", "skipped")


class Best(NamedTuple):
    """The iterate with the lowest outer loss so far (or the lowest loss on the second hold-out, where there is one)."""

    hparams: HParams
    params: Params
    loss: Scalar
    step: jax.Array


class TrainState(NamedTuple):
    """Everything that the next step needs."""

    hparams: HParams
    optimizer: optax.OptState
    carry: Carry
    key: Key
    step: jax.Array
    best: Best
    skipped: jax.Array


class Evaluation(NamedTuple):
    """What one outer step found at the hyperparameters it started from."""

    value: Scalar
    grad_norm: jax.Array
    report: Report
    measured: dict[str, Any]
    zeros: jax.Array  # unknowns that are exactly zero: the size of the face, for sparse solutions
    zeros_changed: jax.Array  # those that were zero and no longer are since the step before, or the other way about


def point_of(task: Task, key: Key, step: jax.Array, hparams: HParams) -> Point:
    """Where step ``step`` asks for a hypergradient: its batches, and a key of its own where nothing is warm-started."""
    for_batches, for_init = jax.random.split(key)
    inner_batch, outer_batch = task.batches(for_batches, step)
    for_init = for_init if task.warm_start else jax.random.fold_in(for_init, step)
    return Point(hparams, inner_batch, outer_batch, for_init)


def first_point(task: Task, key: Key) -> Point:
    """Where the first step of a run with this key asks for its hypergradient."""
    for_hparams, key = jax.random.split(key)
    hparams = task.feasible(trees.differentiable(task.init_hparams(for_hparams), "init_hparams(key)"))
    return point_of(task, key, jnp.int32(0), hparams)


def first_state(task: Task, optimizer: optax.GradientTransformation, engine: Engine, key: Key) -> TrainState:
    """The state before the first step; a pure function of the key."""
    for_hparams, key = jax.random.split(key)
    hparams = task.feasible(trees.differentiable(task.init_hparams(for_hparams), "init_hparams(key)"))
    carry = engine.first_carry(task.levels, point_of(task, key, jnp.int32(0), hparams))
    infinity = jnp.full((), jnp.inf, jnp.result_type(float))
    best = Best(hparams, task.inner.primal(carry.params), infinity, jnp.int32(-1))
    return TrainState(hparams, optimizer.init(hparams), carry, key, jnp.int32(0), best, jnp.int32(0))


def outer_step(
    task: Task, optimizer: optax.GradientTransformation, engine: Engine, solver: Solver, state: TrainState
) -> tuple[TrainState, Evaluation]:
    """The state after one step. A step whose hypergradient failed changes neither hyperparameters nor optimiser, unless
    the engine only warns of it."""
    levels = replace(task.levels, inner=task.inner.with_solver(solver))
    point = point_of(task, state.key, state.step, state.hparams)
    value, grad, report = engine.hypergradient(levels, point, state.carry)
    measured = checked_metrics(task.evaluate, task.evaluate(report.params, state.hparams))
    value_fn = outer_value(engine, levels, point, report.carry)
    updates, after = update(optimizer, (value, grad), state.optimizer, state.hparams, value_fn)
    moved = task.feasible(optax.apply_updates(state.hparams, updates))
    usable = (report.status.ok | (engine.on_failure == "warn")) & jnp.isfinite(trees.norm(grad))
    report = replace(report, skipped=(~usable).astype(jnp.int32))
    zeros = trees.zeros(report.params), trees.zeros_changed(task.inner.primal(state.carry.params), report.params)

    judged = jnp.asarray(measured.get("stop/loss", value), state.best.loss.dtype)
    better = usable & (judged < state.best.loss)
    here = Best(state.hparams, report.params, judged, state.step)
    state = TrainState(
        hparams=trees.select(usable, moved, state.hparams),
        optimizer=trees.select(usable, after, state.optimizer),
        carry=trees.select(usable, report.carry, state.carry),
        key=state.key,
        step=state.step + 1,
        best=trees.select(better, here, state.best),
        skipped=state.skipped + ~usable,
    )
    return state, Evaluation(value, trees.norm(grad), report, measured, *zeros)


def metrics_of(evaluation: Evaluation) -> dict[str, Any]:
    """One line of the record, as a flat dict for people."""
    report = evaluation.report
    return {
        "outer/loss": evaluation.value,
        "outer/grad_norm": evaluation.grad_norm,
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
