"""F2SA: a penalty on the inner suboptimality, with two inner unknowns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report, settings, traced
from bilevel.engines.stochastic.directions import refuse_problem
from bilevel.engines.stochastic.first_order import first_order_report
from bilevel.engines.stochastic.neumann import own_batches
from bilevel.engines.stochastic.single_loop import start
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Params, Scalar
from bilevel.task import Task


class Penalised(NamedTuple):
    reference: Scalar
    step: jax.Array
    penalised: Params  # y, the minimiser of g / lam + loss
    weight: jax.Array  # lam


@settings
@dataclass(frozen=True)
class F2SA(Stepping):
    """grad = dg/dh(y) + lam (dloss/dh(y) - dloss/dh(w)), w minimising the inner loss and y loss + g / lam.

    First derivatives only; the bias is O(1 / lam). ``weight`` is the first lam, ``increase`` is added to it each outer
    step; ``inner_steps`` gradient steps on each of the two unknowns, on minibatches of their own. ``step_size`` is a
    number or a function of the outer step (`bl.PowerLaw`): as lam grows, it multiplies the noise of constant steps.
    Source: Kwon et al., 2023.
    """

    step_size: StepSize = traced(0.1)
    weight: float = traced(1.0)
    increase: float = traced(0.1)
    inner_steps: int = 10
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        weight = jnp.asarray(self.weight, reference.dtype)
        return Carry(at.params, at.adjoint, Penalised(reference, jnp.int32(0), at.params, weight))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        memory, hparams = carry.memory, point.hparams
        gradient, outer_gradient = jax.grad(task.inner.loss), jax.grad(task.outer)
        draw = own_batches(task, point, memory.step * self.inner_steps)
        size = size_at(self.step_size, memory.step)

        def descend(number: jax.Array, state: tuple[Params, Params]) -> tuple[Params, Params]:
            params, penalised = state
            inner_batch, outer_batch = draw(number)
            slope = gradient(penalised, hparams, inner_batch)
            slope = trees.axpy(1 / memory.weight, outer_gradient(penalised, hparams, outer_batch), slope)
            params = trees.axpy(-size, gradient(params, hparams, inner_batch), params)
            return params, trees.axpy(-size, slope, penalised)

        params, penalised = jax.lax.fori_loop(0, self.inner_steps, descend, (carry.params, memory.penalised))
        value = task.outer(params, hparams, point.outer_batch)
        direct = jax.grad(task.outer, argnums=1)(penalised, hparams, point.outer_batch)
        slope = jax.grad(task.inner.loss, argnums=1)
        difference = trees.subtract(
            slope(penalised, hparams, point.inner_batch), slope(params, hparams, point.inner_batch)
        )
        grad = trees.axpy(memory.weight, difference, direct)
        rest = gradient(params, hparams, point.inner_batch)
        after = Penalised(memory.reference, memory.step + 1, penalised, memory.weight + self.increase)
        counts = Counts(gradients=3 * self.inner_steps + 4)
        carry = Carry(params, carry.adjoint, after)
        return value, grad, first_order_report(task, rest, grad, carry, counts, self.inner_steps)
