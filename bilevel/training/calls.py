"""Several outer steps in one call of a compiled program, without a round trip to the host between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.engines import Engine
from bilevel.foundation.typing import HParams, Params
from bilevel.task import Task
from bilevel.training.outer_step import Evaluation, TrainState, outer_step


class Entry(NamedTuple):
    """The values of one outer step for the record. In a call the leading axis of each leaf counts the steps."""

    evaluation: Evaluation  # without gradient, unknowns and memory of the engine
    hparams: HParams  # at which the step was taken
    params: Params | None  # the inner solution there, where a callback asks for it
    best: jax.Array  # the number of the best step so far


class Call(NamedTuple):
    """The end of a call: the state after ``taken`` steps, and their entries. Entries of steps not taken are zeros."""

    state: TrainState
    entries: Entry
    taken: jax.Array


def in_one_call(
    task: Task,
    optimizer: optax.GradientTransformation,
    engine: Engine,
    state: TrainState,
    count: jax.Array,
    *,
    most: int,
    with_params: bool,
) -> Call:
    """``count`` outer steps from ``state``, at most ``most``; fewer where one fails. The call ends before a step whose
    hypergradient cannot be used, because what follows then (retries, shorter steps, an error) is decided on the host.
    """

    def one(state: TrainState) -> tuple[TrainState, Evaluation, Entry]:
        after, evaluation = outer_step(task, optimizer, engine, state)
        report: Any = replace(evaluation.report, params=None, carry=None)
        params = evaluation.report.params if with_params else None
        light = evaluation._replace(report=report, grad=None)
        return after, evaluation, Entry(light, state.hparams, params, after.best.step)

    def step(loop: tuple[Call, jax.Array]) -> tuple[Call, jax.Array]:
        call, _ = loop
        after, evaluation, entry = one(call.state)
        fine = jnp.all(evaluation.report.status.ok) & (evaluation.report.skipped == 0)
        entries = jax.tree.map(lambda kept, new: kept.at[call.taken].set(new), call.entries, entry)
        state = jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, call.state)
        return Call(state, entries, call.taken + fine), fine

    shapes = jax.eval_shape(lambda state: one(state)[2], state)
    empty = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), shapes)
    begin = Call(state, empty, jnp.int32(0)), jnp.bool_(True)
    call, _ = jax.lax.while_loop(lambda loop: (loop[0].taken < count) & loop[1], step, begin)
    return call
