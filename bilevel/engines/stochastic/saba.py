"""SABA: a single loop whose directions remember the last contribution of each sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point, settings, traced
from bilevel.engines.stochastic.directions import (
    Inner,
    Iterate,
    Outer,
    average,
    inner_part,
    outer_part,
    refuse_whole,
    samples,
)
from bilevel.engines.stochastic.single_loop import Estimates, SingleLoop
from bilevel.engines.stochastic.steps import StepSize
from bilevel.foundation.typing import Batch, Counts, PyTree, Scalar
from bilevel.task import Task

Part: TypeAlias = Callable[[PyTree], PyTree]  # the contribution of one sample


class Tables(NamedTuple):
    reference: Scalar
    step: jax.Array
    inner: Inner  # a row for each sample
    outer: Outer
    inner_mean: Inner
    outer_mean: Outer


@settings
@dataclass(frozen=True)
class SABA(SingleLoop):
    """As `SOBA`, with SAGA on the three directions: the last contribution of each sample is remembered.

        D = mean over the batch of weight (new - remembered) + mean of all that is remembered

    Needs minibatches that know their samples (`bl.minibatches`), and memory for n rows of 2 p + d numbers (n inner
    samples, p unknowns, d hyperparameters) and m rows of p + d (m outer samples). The tables begin at zero, as in the
    published runs. ``filled=True`` fills them by one pass, so that the first direction is that of all data. Use it for
    few batches only. An epoch visits each sample once, so its rows still hold the first direction D_0 when they are
    replaced, and a share s into the first epoch D is off by s (the mean of the new rows - D_0). Converges at constant
    steps. Source: Dagreou et al., 2022; Defazio et al., 2014.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    filled: bool = False
    on_failure: str = "raise"

    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        refuse_whole(self, point)
        tables, means = [], []
        for which, batch, function in ((0, point.inner_batch, inner_part), (1, point.outer_batch, outer_part)):
            part = lambda one, function=function: function(task, at, one)
            table = _empty(batch, part)
            tables.append(_filled(task, which, batch, part, table) if self.filled else table)
            means.append(jax.tree.map(lambda rows: rows.mean(0), tables[-1]))
        return Tables(reference, jnp.int32(0), *tables, *means)

    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        inner, inner_table, inner_mean = _saga(
            point.inner_batch, memory.inner, memory.inner_mean, lambda one: inner_part(task, at, one)
        )
        outer, outer_table, outer_mean = _saga(
            point.outer_batch, memory.outer, memory.outer_mean, lambda one: outer_part(task, at, one)
        )
        memory = Tables(memory.reference, memory.step, inner_table, outer_table, inner_mean, outer_mean)
        rows = point.inner_batch.index.shape[0], point.outer_batch.index.shape[0]
        counts = Counts(gradients=sum(rows), hessian_products=rows[0], jacobian_products=rows[0])
        return Estimates(inner, outer, memory, counts)


def _saga(batch: Batch, table: PyTree, mean: PyTree, part: Part) -> tuple[PyTree, PyTree, PyTree]:
    """The direction, the table with the rows of the batch replaced, and its new mean."""
    each, weights = samples(batch)
    fresh = jax.vmap(part)(each)
    change = jax.tree.map(lambda new, rows: new - rows[batch.index], fresh, table)
    direction = jax.tree.map(jnp.add, average(weights, change), mean)
    present = weights > 0
    places = jnp.where(present, batch.index, batch.samples)  # indices beyond the end are dropped
    # The change is added, and the new row not set, because the rows are read before they are written only then: XLA
    # orders the two by what depends on what, and copies the whole table at each step where nothing orders them.
    table = jax.tree.map(lambda rows, moved: rows.at[places].add(moved, mode="drop"), table, change)
    share = present.astype(weights.dtype) * weights.size / batch.samples
    return direction, table, jax.tree.map(jnp.add, mean, average(share, change))


def _empty(batch: Batch, part: Part) -> PyTree:
    """A table of zeros, with a row for the contribution of each sample."""
    shapes = jax.eval_shape(lambda: part(jax.tree.map(lambda leaf: leaf[0], samples(batch)[0])))
    return jax.tree.map(lambda leaf: jnp.zeros((batch.samples, *leaf.shape), leaf.dtype), shapes)


def _filled(task: Task, which: int, batch: Batch, part: Part, table: PyTree) -> PyTree:
    """The table of the contributions of all samples, by one pass over the data."""

    def fill(step: jax.Array, table: PyTree) -> PyTree:
        block = task.batches(jax.random.key(0), step)[which]
        each, weights = samples(block)
        places = jnp.where(weights > 0, block.index, batch.samples)
        return jax.tree.map(lambda rows, new: rows.at[places].set(new, mode="drop"), table, jax.vmap(part)(each))

    return jax.lax.fori_loop(0, batch.blocks, fill, table)
