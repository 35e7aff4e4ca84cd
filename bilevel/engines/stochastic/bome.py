"""BOME: the value function as a constraint, which a dynamic barrier enforces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report, settings, traced
from bilevel.engines.stochastic.directions import refuse_problem
from bilevel.engines.stochastic.first_order import Slopes, descent, first_order_report, slopes
from bilevel.engines.stochastic.neumann import own_batches
from bilevel.engines.stochastic.single_loop import Begun, start
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Scalar
from bilevel.task import Task


@settings
@dataclass(frozen=True)
class BOME(Stepping):
    """One step on g under the constraint q(w, h) = loss(w, h) - loss(m, h) <= 0, m being ``inner_steps`` gradient steps
    on the inner loss from w (and a constant in q). First derivatives only.

        w <- w - a (dg/dw + lam dq/dw),      grad = dg/dh + lam dq/dh
        lam = max(barrier - <dg, dq> / ||dq||^2, 0),      dg and dq in (w, h) together

    With this lam the step lowers q at a rate of at least ``barrier`` ||dq||^2, even if g rises. q reaches 0 in the
    limit only; until then grad is not the gradient of any function. a is ``step_size`` for w, and ``inner_step`` the
    one for m; both are numbers or functions of the outer step (`bl.PowerLaw`). It converges to first-order points of
    the constrained problem at a rate of k^(-1/4), if the inner loss satisfies the inequality of Polyak and Lojasiewicz.
    For whole batches, or large ones. With small minibatches the outer steps end elsewhere, because lam divides by
    ||dq||^2, which noise dominates near the solution. Source: Ye, Liu, Wright, Stone and Liu, 2022.
    """

    step_size: StepSize = traced(0.1)
    inner_step: StepSize = traced(0.1)
    barrier: float = traced(0.5)
    inner_steps: int = 10
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        return Carry(at.params, at.adjoint, Begun(reference, jnp.int32(0)))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        reference, step = carry.memory
        hparams, params = point.hparams, carry.params
        draw = own_batches(task, point, step * self.inner_steps)
        least = descent(task, hparams, draw, params, self.inner_steps, size_at(self.inner_step, step))

        value, outer = jax.value_and_grad(task.outer, argnums=(0, 1))(params, hparams, point.outer_batch)
        outer, inner = Slopes(*outer), slopes(task.inner.loss, params, hparams, point.inner_batch)
        below = jax.grad(task.inner.loss, argnums=1)(least, hparams, point.inner_batch)
        gap = Slopes(inner.params, trees.subtract(inner.hparams, below))
        squared = trees.dot(gap, gap)
        along = jnp.where(squared > 0, trees.dot(outer, gap) / jnp.where(squared > 0, squared, 1), 0)
        multiplier = jnp.maximum(self.barrier - along, 0)

        direction = trees.axpy(multiplier, gap, outer)
        params = trees.axpy(-size_at(self.step_size, step), direction.params, params)
        after = Carry(params, carry.adjoint, Begun(reference, step + 1))
        counts = Counts(gradients=self.inner_steps + 3)
        report = first_order_report(task, inner.params, direction.hparams, after, counts, self.inner_steps)
        return value, direction.hparams, report
