"""V-PBGD: gradient steps on the outer loss with a penalty on the inner suboptimality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report, settings, traced
from bilevel.engines.stochastic.directions import refuse_problem
from bilevel.engines.stochastic.first_order import Slopes, descent, first_order_report, slopes
from bilevel.engines.stochastic.neumann import own_batches
from bilevel.engines.stochastic.single_loop import start
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Params, Scalar
from bilevel.task import Task


class Minimised(NamedTuple):
    reference: Scalar
    step: jax.Array
    minimiser: Params  # m, near the minimiser of the inner loss


@settings
@dataclass(frozen=True)
class VPBGD(Stepping):
    """Gradient steps on g + lam (loss(w, h) - min loss(., h)) in w and h together, first derivatives only.

        m <- ``inner_steps`` gradient steps on the inner loss, from the m before
        w <- w - a (dloss/dw + 1/lam dg/dw),      grad = dg/dh + lam (dloss/dh(w) - dloss/dh(m))

    ``weight`` is lam and ``step_size`` a, below 1/L of the inner loss; both are numbers or functions of the outer step
    (a `bl.PowerLaw` of negative power grows). The bias is O(1 / lam). The inner loss need not be convex, but has to
    grow quadratically away from its minimisers. The method of the paper starts m at w. Source: Shen and Chen, 2023.
    """

    step_size: StepSize = traced(0.1)
    weight: StepSize = traced(10.0)
    inner_steps: int = 10
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        return Carry(at.params, at.adjoint, Minimised(reference, jnp.int32(0), at.params))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        reference, step, minimiser = carry.memory
        hparams, size, weight = point.hparams, size_at(self.step_size, step), size_at(self.weight, step)
        draw = own_batches(task, point, step * self.inner_steps)
        minimiser = descent(task, hparams, draw, minimiser, self.inner_steps, size)

        value, outer = jax.value_and_grad(task.outer, argnums=(0, 1))(carry.params, hparams, point.outer_batch)
        outer, inner = Slopes(*outer), slopes(task.inner.loss, carry.params, hparams, point.inner_batch)
        least = jax.grad(task.inner.loss, argnums=1)(minimiser, hparams, point.inner_batch)
        grad = trees.axpy(weight, trees.subtract(inner.hparams, least), outer.hparams)
        rest = trees.axpy(1 / weight, outer.params, inner.params)
        params = trees.axpy(-size, rest, carry.params)
        after = Carry(params, carry.adjoint, Minimised(reference, step + 1, minimiser))
        counts = Counts(gradients=self.inner_steps + 3)
        return value, grad, first_order_report(task, rest, grad, after, counts, self.inner_steps)
