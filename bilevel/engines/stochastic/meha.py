"""MEHA: the Moreau envelope of the inner problem as a penalty, for sets, nonsmooth terms and losses that are not
convex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Point, Report, refuse_training, settings, traced
from bilevel.engines.stochastic.directions import refuse_new_problems
from bilevel.engines.stochastic.first_order import Slopes, first_order_report, slopes
from bilevel.engines.stochastic.single_loop import start
from bilevel.engines.stochastic.steps import Stepping, StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.closures import depends
from bilevel.foundation.typing import Counts, HParams, Params, Scalar
from bilevel.task import Task


class Enveloped(NamedTuple):
    reference: Scalar
    step: jax.Array
    center: Params  # m, near the minimiser that the envelope at w is made of


@settings
@dataclass(frozen=True)
class MEHA(Stepping):
    """Steps on g + lam (inner(w, h) - envelope(w, h)) in w and h, with the Moreau envelope of the inner objective,

        envelope(w, h) = min over m of inner(m, h) + 1/(2 envelope) ||m - w||^2,      inner = loss + penalty,

    whose minimiser m is tracked by one proximal gradient step in each outer step. A feasible set is a penalty:

        m <- prox(m - a (dloss/dw(m) + (m - w) / envelope))
        w <- prox(w - a (1/lam dg/dw + dloss/dw(w) - (w - m) / envelope)),
        grad = dg/dh + lam (dinner/dh(w) - dinner/dh(m))

    One loop, first derivatives only, and no strong convexity: ``envelope`` below 1/L of a loss that is not convex makes
    the problem of m convex. ``step_size`` a and ``weight`` lam are numbers or functions of the outer step; proved with
    a lam that grows like k^p, 0 <= p < 1/2: ``weight=bl.PowerLaw(10.0, -0.3)``. The bias is O(1 / lam). Parameters of a
    penalty may depend on the hyperparameters. Parameters of a set may not: that raises `ValueError`, as functional
    constraints do. Source: Liu, Liu, Yao, Zeng and Zhang, 2024.
    """

    step_size: StepSize = traced(0.1)
    weight: StepSize = traced(10.0)
    envelope: float = traced(1.0)
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def first_carry(self, task: Task, point: Point) -> Carry:
        self._refuse(task, point)
        at, reference = start(task, point)
        return Carry(at.params, at.adjoint, Enveloped(reference, jnp.int32(0), at.params))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        reference, step, center = carry.memory
        params, hparams, term = carry.params, point.hparams, task.inner.nonsmooth
        size, weight = size_at(self.step_size, step), size_at(self.weight, step)

        def moved(start: Params, slope: Params) -> Params:
            return term.prox(trees.axpy(-size, slope, start), size, hparams)

        slope = jax.grad(task.inner.loss)(center, hparams, point.inner_batch)
        center = moved(center, trees.axpy(1 / self.envelope, trees.subtract(center, params), slope))

        value, outer = jax.value_and_grad(task.outer, argnums=(0, 1))(params, hparams, point.outer_batch)
        outer, inner = Slopes(*outer), slopes(task.inner.loss, params, hparams, point.inner_batch)
        least = jax.grad(task.inner.loss, argnums=1)(center, hparams, point.inner_batch)
        below, above = (jax.grad(term.value, argnums=1)(w, hparams) for w in (center, params))
        grad = jax.tree.map(
            lambda direct, high, low, p, q: (direct + weight * (high - low + p - q)).astype(direct.dtype),
            *(outer.hparams, inner.hparams, least, above, below),
        )
        pull = trees.axpy(-1 / self.envelope, trees.subtract(params, center), inner.params)
        after = moved(params, trees.axpy(1 / weight, outer.params, pull))
        rest = trees.subtract(params, after)
        counts = Counts(gradients=4, proxes=0 if term.smooth else 2)
        carry = Carry(after, carry.adjoint, Enveloped(reference, step + 1, center))
        return value, grad, first_order_report(task, rest, grad, carry, counts)

    def _refuse(self, task: Task, point: Point) -> None:
        refuse_new_problems(self, task)
        refuse_training(self, task)
        inner: Any = task.inner
        if inner.optimality is not None or inner.constraint.by_functions:
            raise ValueError(
                "bl.MEHA needs an inner loss with penalties and sets that have a prox, and this problem is stated by "
                f"{inner.mapping}. Use bl.Implicit()."
            )
        params = jax.eval_shape(lambda: inner.init(point.key, point.hparams))
        project = lambda hparams: inner.nonsmooth.as_set.prox(jax.tree.map(jnp.zeros_like, params), 1.0, hparams)
        if inner.nonsmooth.as_set.is_set and depends(project, point.hparams):
            raise ValueError(
                f"bl.MEHA needs a feasible set that stays the same, and the parameters of {inner.nonsmooth.as_set} "
                "depend on the hyperparameters. Use bl.Implicit()."
            )
