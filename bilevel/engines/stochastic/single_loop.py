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
    Point,
    Report,
    cold_start,
    settings,
    traced,
)
from bilevel.engines.stochastic.directions import (
    Directions,
    Inner,
    Iterate,
    Outer,
    combine,
    inner_part,
    outer_part,
    refuse_problem,
)
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
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
    """A single-loop method's estimates of the derivatives of both levels at its iterate, and their cost."""

    inner: Inner
    outer: Outer
    memory: PyTree
    counts: Counts


class SingleLoop(Stepping):
    """w <- w - a D_w, u <- u - b D_u, grad = D_h, all three at the same iterate.

    Abstract: the methods differ in the estimates of the directions and in the memory that these need.
    """

    step_size: StepSize
    adjoint_step: StepSize

    @abc.abstractmethod
    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        """The memory at the start, whose ``reference`` is given and whose ``step`` is 0."""

    @abc.abstractmethod
    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        """The estimates of both levels from the minibatches of ``point`` and the memory."""

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        return Carry(at.params, at.adjoint, self.remember(task, point, at, reference))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        inner, outer, memory, counts = self.estimate(
            task, point, Iterate(carry.params, carry.adjoint, point.hparams), carry.memory
        )
        directions = combine(inner, outer)
        step = carry.memory.step
        params = trees.axpy(-size_at(self.step_size, step), directions.params, carry.params)
        adjoint = trees.axpy(-size_at(self.adjoint_step, step), directions.adjoint, carry.adjoint)
        after = Carry(params, adjoint, memory._replace(step=step + 1))
        report = stochastic_report(task, directions, outer.cotangent, memory.reference, after, counts)
        return outer.value, directions.hparams, report


class Begun(NamedTuple):
    reference: Scalar
    step: jax.Array


@settings
@dataclass(frozen=True)
class SOBA(SingleLoop):
    """w <- w - a D_w, u <- u - b D_u, grad = D_h: minibatch directions, all three at the same iterate.

        D_w = F,      D_u = H u - dg/dw,      D_h = dg/dh - B'u

    ``step_size`` a and ``adjoint_step`` b are below 1/L, numbers or functions of the outer step (`bl.PowerLaw`, a
    schedule of optax). With constant step sizes the error levels off at the noise of the minibatches. The outer step is
    the optimiser's; its ratio to ``step_size`` matters. One gradient, one product with H and one with B an outer step.
    Source: Dagreou et al., 2022.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    on_failure: str = "raise"

    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        return Begun(reference, jnp.int32(0))

    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        inner, outer = inner_part(task, at, point.inner_batch), outer_part(task, at, point.outer_batch)
        return Estimates(inner, outer, memory, Counts(gradients=2, hessian_products=1, jacobian_products=1))
