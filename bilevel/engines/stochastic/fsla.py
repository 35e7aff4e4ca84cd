"""FSLA: a single loop with recursive momentum on the hypergradient alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report, settings, traced
from bilevel.engines.stochastic.directions import Directions, Iterate, refuse_problem
from bilevel.engines.stochastic.momentum import corrected
from bilevel.engines.stochastic.neumann import own_batches, products
from bilevel.engines.stochastic.single_loop import start, stochastic_report
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Scalar
from bilevel.task import Task


class Followed(NamedTuple):
    reference: Scalar
    step: jax.Array
    hparams: HParams  # params, adjoint and hyperparameters of the step before
    direction: HParams


@settings
@dataclass(frozen=True)
class FSLA(Stepping):
    """w <- w - a F(w), then u <- u - b (H u - dg/dw) at the new w, then grad = d with recursive momentum:

        d <- D_h + (1 - share) (d - D_h before),      D_h = dg/dh - B'u

    D_h is taken at this outer step's (w, u, h), and D_h before at the (w, u, h) of the last outer step, both on one
    minibatch. The updates of w, of u and of d each draw a minibatch of their own. Proved
    with all steps and ``share`` of order 1 / sqrt(k) (`bl.PowerLaw`).
    Source: Li, Gu and Huang, 2022.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    share: StepSize = traced(0.5)
    on_failure: str = "raise"

    def first_carry(self, task: Task, point: Point) -> Carry:
        refuse_problem(self, task)
        at, reference = start(task, point)
        zeros = jax.tree.map(jnp.zeros_like, at.hparams)
        return Carry(at.params, at.adjoint, Followed(reference, jnp.int32(0), at.hparams, zeros))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        reference, step, hparams_before, direction = carry.memory
        draw, hparams = own_batches(task, point, 2 * step), point.hparams
        gradient = jax.grad(task.inner.loss)
        slope = gradient(carry.params, hparams, draw(0)[0])
        params = trees.axpy(-size_at(self.step_size, step), slope, carry.params)
        product = products(task, params, hparams, lambda number: draw(1))(0, carry.adjoint)
        cotangent = jax.grad(task.outer)(params, hparams, draw(1)[1])
        rest = trees.subtract(product, cotangent)
        adjoint = trees.axpy(-size_at(self.adjoint_step, step), rest, carry.adjoint)

        def hypergradient(at: Iterate) -> tuple[Scalar, HParams]:
            value, direct = jax.value_and_grad(task.outer, argnums=1)(at.params, at.hparams, point.outer_batch)
            _, pull = jax.vjp(lambda h: gradient(at.params, h, point.inner_batch), at.hparams)
            return value, trees.subtract(direct, *pull(at.adjoint))

        value, new = hypergradient(Iterate(params, adjoint, hparams))
        _, old = hypergradient(Iterate(carry.params, carry.adjoint, hparams_before))
        direction = corrected(new, old, direction, jnp.where(step == 0, 1, size_at(self.share, step)))
        after = Carry(params, adjoint, Followed(reference, step + 1, hparams, direction))
        counts = Counts(gradients=4, hessian_products=1, jacobian_products=2)
        directions = Directions(slope, rest, direction)
        return value, direction, stochastic_report(task, directions, cotangent, reference, after, counts)
