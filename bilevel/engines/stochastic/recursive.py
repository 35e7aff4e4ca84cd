"""SRBA: a single loop whose directions are corrected recursively between passes over the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Bilevel, Carry, Engine, Point, Report, check_policy, settings, traced
from bilevel.engines.stochastic.directions import (
    Inner,
    Iterate,
    Outer,
    combine,
    inner_part,
    outer_part,
    over_epoch,
    refuse_problem,
    refuse_whole,
)
from bilevel.engines.stochastic.single_loop import at_carry, moved, start, stochastic_report
from bilevel.foundation.typing import Counts, HParams, Scalar


class Recursion(NamedTuple):
    reference: Scalar
    step: jax.Array
    before: Iterate
    inner: Inner  # the estimates carried along
    outer: Outer


@settings
@dataclass(frozen=True)
class SRBA(Engine):
    """As `SOBA`, with SARAH on the three directions: a pass over all data every ``period`` outer steps, and between

        D = D_before + (directions here - directions at the iterate before), both on the minibatch.

    Two evaluations a step. Needs `bl.minibatches`. Source: Dagreou et al., 2024; Nguyen et al., 2017.
    """

    step_size: float = traced(0.1)
    adjoint_step: float = traced(0.1)
    period: int = 16
    on_failure: str = "raise"
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.on_failure)
        if self.period < 1:
            raise ValueError(
                f"SRBA(period={self.period}): a pass over the data is needed at least every so many steps."
            )

    def first_carry(self, bilevel: Bilevel, point: Point) -> Carry:
        refuse_problem(self, bilevel)
        refuse_whole(self, point)
        at, reference = start(bilevel, point)
        inner = jax.eval_shape(lambda: inner_part(bilevel, at, point.inner_batch))
        outer = jax.eval_shape(lambda: outer_part(bilevel, at, point.outer_batch))
        inner, outer = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (inner, outer))
        return Carry(at.params, at.adjoint, Recursion(reference, jnp.int32(0), at, inner, outer))

    def hypergradient(self, bilevel: Bilevel, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        at, memory = at_carry(point, carry), carry.memory

        def whole() -> tuple[Inner, Outer]:
            return over_epoch(
                bilevel,
                point,
                lambda batch: inner_part(bilevel, at, batch),
                lambda batch: outer_part(bilevel, at, batch),
            )

        def recursive() -> tuple[Inner, Outer]:
            def changed(part, batch, so_far):
                here, there = part(bilevel, at, batch), part(bilevel, memory.before, batch)
                return jax.tree.map(lambda old, new, before: old + new - before, so_far, here, there)

            return (
                changed(inner_part, point.inner_batch, memory.inner),
                changed(outer_part, point.outer_batch, memory.outer),
            )

        due = memory.step % self.period == 0
        inner, outer = jax.lax.cond(due, whole, recursive)
        directions = combine(inner, outer)
        after = Recursion(memory.reference, memory.step + 1, at, inner, outer)
        carry = moved(carry, directions, self.step_size, self.adjoint_step, after)
        times, beside = (jnp.where(due, batch.blocks, 2) for batch in (point.inner_batch, point.outer_batch))
        counts = Counts(gradients=times + beside, hessian_products=times, jacobian_products=times)
        report = stochastic_report(bilevel, directions, outer.cotangent, memory.reference, carry, counts)
        return outer.value, directions.hparams, report
