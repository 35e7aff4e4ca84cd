"""SRBA: a single loop whose directions are corrected recursively between passes over the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point, settings, traced
from bilevel.engines.stochastic.directions import (
    Inner,
    Iterate,
    Outer,
    inner_part,
    outer_part,
    over_epoch,
    refuse_whole,
)
from bilevel.engines.stochastic.single_loop import Estimates, SingleLoop
from bilevel.engines.stochastic.steps import StepSize
from bilevel.foundation.typing import Batch, Counts, PyTree, Scalar
from bilevel.task import Task


class Recursion(NamedTuple):
    reference: Scalar
    step: jax.Array
    before: Iterate
    inner: Inner  # the estimates carried along
    outer: Outer


@settings
@dataclass(frozen=True)
class SRBA(SingleLoop):
    """As `SOBA`, with SARAH on the three directions: a pass over all data every ``period`` outer steps, and between

        D = D_before + (directions here - directions at the iterate before), both on the minibatch.

    Two evaluations a step. Needs `bl.minibatches`. Source: Dagreou et al., 2024; Nguyen et al., 2017.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    period: int = 16
    on_failure: str = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period < 1:
            raise ValueError(
                f"SRBA(period={self.period}): a pass over the data is needed at least every so many steps."
            )

    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        refuse_whole(self, point)
        inner = jax.eval_shape(lambda: inner_part(task, at, point.inner_batch))
        outer = jax.eval_shape(lambda: outer_part(task, at, point.outer_batch))
        inner, outer = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (inner, outer))
        return Recursion(reference, jnp.int32(0), at, inner, outer)

    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        def whole() -> tuple[Inner, Outer]:
            return over_epoch(
                task, point, lambda batch: inner_part(task, at, batch), lambda batch: outer_part(task, at, batch)
            )

        def recursive() -> tuple[Inner, Outer]:
            def changed(part: Callable[..., Any], batch: Batch, so_far: Any) -> Any:
                here, there = part(task, at, batch), part(task, memory.before, batch)
                return jax.tree.map(lambda old, new, before: old + new - before, so_far, here, there)

            return (
                changed(inner_part, point.inner_batch, memory.inner),
                changed(outer_part, point.outer_batch, memory.outer),
            )

        due = memory.step % self.period == 0
        inner, outer = jax.lax.cond(due, whole, recursive)
        times, beside = (jnp.where(due, batch.blocks, 2) for batch in (point.inner_batch, point.outer_batch))
        counts = Counts(gradients=times + beside, hessian_products=times, jacobian_products=times)
        return Estimates(inner, outer, Recursion(memory.reference, memory.step, at, inner, outer), counts)
