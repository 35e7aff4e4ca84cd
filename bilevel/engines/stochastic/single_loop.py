"""Single-loop bilevel methods: one minibatch step of inner unknown and adjoint an outer step, carried along."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import (
    NAN,
    Carry,
    Engine,
    Point,
    Report,
    check_policy,
    cold_start,
    settings,
    traced,
)
from bilevel.engines.stochastic.directions import (
    Directions,
    Inner,
    Iterate,
    Outer,
    average,
    combine,
    inner_part,
    outer_part,
    over_epoch,
    refuse_problem,
    refuse_whole,
    samples,
)
from bilevel.foundation import trees
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Counts, HParams, PyTree, Scalar
from bilevel.task import Task

DIVERGED = 1e8  # directions beyond so many times the first have diverged


def stochastic_report(
    task: Task, directions: Directions, cotangent: PyTree, reference: Scalar, carry: Carry, counts: Counts
) -> Report:
    """The status is truncated by design, unless the directions diverged; the residuals belong to the minibatch."""
    size, rest = trees.norm(directions.params), trees.norm(directions.adjoint)
    whole = trees.norm(cotangent)
    relative = size / jnp.where(reference > 0, reference, 1)
    left = rest / jnp.where(whole > 0, whole, 1)

    def status(part: Scalar, all_of: PyTree) -> Status:
        code = jnp.where(part > DIVERGED, Code.diverged, Code.truncated)
        return Status.of(jnp.where(jnp.isfinite(trees.norm(all_of)), code, Code.nonfinite))

    return Report(
        inner_residual=relative,
        inner_steps=jnp.int32(1),
        inner_status=status(relative, directions.params),
        adjoint_residual=left,
        adjoint_steps=jnp.int32(1),
        adjoint_status=status(left, (directions.adjoint, directions.hparams)),
        error_estimate=jnp.full_like(relative, jnp.inf),  # the error of a random direction is not known
        error_inner=jnp.full_like(relative, NAN),
        error_adjoint=jnp.full_like(relative, NAN),
        grade=jnp.int32(0),
        counts=counts.as_arrays(),
        params=task.inner.primal(carry.params),
        carry=carry,
    )


def start(task: Task, point: Point) -> tuple[Iterate, Scalar]:
    """The cold start with a zero adjoint, and the size of the first direction."""
    cold = cold_start(task, point)
    residual = jax.grad(task.inner.loss)(cold, point.hparams, point.inner_batch)
    return Iterate(cold, jax.tree.map(jnp.zeros_like, cold), point.hparams), trees.norm(residual)


class Estimates(NamedTuple):
    """What a single-loop method takes for the derivatives of both levels at its iterate, and what it cost."""

    inner: Inner
    outer: Outer
    memory: PyTree
    counts: Counts


class SingleLoop(Engine):
    """w <- w - a D_w, u <- u - b D_u, grad = D_h, all three at the same iterate. Abstract: the methods differ in how
    they estimate the directions, and in what they remember for it."""

    step_size: float
    adjoint_step: float
    stochastic = True

    @abc.abstractmethod
    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        """The memory at the start, with the field ``reference``: the norm of the first inner direction."""

    @abc.abstractmethod
    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        """What the minibatches of ``point`` and the memory say of both levels."""

    def __post_init__(self) -> None:
        check_policy(self.on_failure)

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        return Carry(at.params, at.adjoint, self.remember(task, point, at, reference))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        inner, outer, memory, counts = self.estimate(
            task, point, Iterate(carry.params, carry.adjoint, point.hparams), carry.memory
        )
        directions = combine(inner, outer)
        params = trees.axpy(-self.step_size, directions.params, carry.params)
        adjoint = trees.axpy(-self.adjoint_step, directions.adjoint, carry.adjoint)
        after = Carry(params, adjoint, memory)
        report = stochastic_report(task, directions, outer.cotangent, memory.reference, after, counts)
        return outer.value, directions.hparams, report


class Reference(NamedTuple):
    reference: Scalar  # the norm of the first inner direction


@settings
@dataclass(frozen=True)
class SOBA(SingleLoop):
    """w <- w - a D_w, u <- u - b D_u, grad = D_h: minibatch directions, all three at the same iterate.

        D_w = F,      D_u = H u - dg/dw,      D_h = dg/dh - B'u

    ``step_size`` a and ``adjoint_step`` b are below 1/L. The outer step is the optimiser's; its ratio to ``step_size``
    matters. One gradient, one product with H and one with B an outer step. Source: Dagreou et al., 2022.
    """

    step_size: float = traced(0.1)
    adjoint_step: float = traced(0.1)
    on_failure: str = "raise"

    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        return Reference(reference)

    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        inner, outer = inner_part(task, at, point.inner_batch), outer_part(task, at, point.outer_batch)
        return Estimates(inner, outer, memory, Counts(gradients=2, hessian_products=1, jacobian_products=1))


class Tables(NamedTuple):
    reference: Scalar
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
    samples, p unknowns, d hyperparameters) and m rows of p + d (m outer samples). The tables are filled by one pass at
    the start. Converges at constant steps. Source: Dagreou et al., 2022; Defazio et al., 2014.
    """

    step_size: float = traced(0.1)
    adjoint_step: float = traced(0.1)
    on_failure: str = "raise"

    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        refuse_whole(self, point)
        means = over_epoch(
            task, point, lambda batch: inner_part(task, at, batch), lambda batch: outer_part(task, at, batch)
        )
        tables = [
            _filled(task, which, batch, lambda one, part=part: part(task, at, one))
            for which, batch, part in ((0, point.inner_batch, inner_part), (1, point.outer_batch, outer_part))
        ]
        return Tables(reference, tables[0], tables[1], *means)

    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        inner, inner_table, inner_mean = _saga(
            point.inner_batch, memory.inner, memory.inner_mean, lambda one: inner_part(task, at, one)
        )
        outer, outer_table, outer_mean = _saga(
            point.outer_batch, memory.outer, memory.outer_mean, lambda one: outer_part(task, at, one)
        )
        memory = Tables(memory.reference, inner_table, outer_table, inner_mean, outer_mean)
        rows = point.inner_batch.index.shape[0], point.outer_batch.index.shape[0]
        counts = Counts(gradients=sum(rows), hessian_products=rows[0], jacobian_products=rows[0])
        return Estimates(inner, outer, memory, counts)


def _saga(batch, table: PyTree, mean: PyTree, part) -> tuple[PyTree, PyTree, PyTree]:
    """The direction, the table with the rows of the batch replaced, and its new mean."""
    each, weights = samples(batch)
    fresh = jax.vmap(part)(each)
    change = jax.tree.map(lambda new, rows: new - rows[batch.index], fresh, table)
    direction = jax.tree.map(jnp.add, average(weights, change), mean)
    present = weights > 0
    places = jnp.where(present, batch.index, batch.samples)  # indices beyond the end are dropped
    table = jax.tree.map(lambda rows, new: rows.at[places].set(new, mode="drop"), table, fresh)
    share = present.astype(weights.dtype) * weights.size / batch.samples
    return direction, table, jax.tree.map(jnp.add, mean, average(share, change))


def _filled(task: Task, which: int, batch, part) -> PyTree:
    """The table of the contributions of all samples, by one pass over the data."""

    def fill(step: jax.Array, table: PyTree) -> PyTree:
        block = task.batches(jax.random.key(0), step)[which]
        each, weights = samples(block)
        places = jnp.where(weights > 0, block.index, batch.samples)
        return jax.tree.map(lambda rows, new: rows.at[places].set(new, mode="drop"), table, jax.vmap(part)(each))

    shapes = jax.eval_shape(lambda: part(jax.tree.map(lambda leaf: leaf[0], samples(batch)[0])))
    empty = jax.tree.map(lambda leaf: jnp.zeros((batch.samples, *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, batch.blocks, fill, empty)
