"""MA-SOBA: a single loop with a moving average of the hypergradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point, settings, traced
from bilevel.engines.stochastic.directions import Iterate, inner_part, outer_part
from bilevel.engines.stochastic.single_loop import Estimates, SingleLoop
from bilevel.engines.stochastic.steps import StepSize, size_at
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, PyTree, Scalar
from bilevel.task import Task


class Averages(NamedTuple):
    reference: Scalar
    step: jax.Array
    cross: HParams  # of B'u
    direct: HParams  # of dg/dh


@settings
@dataclass(frozen=True)
class MASOBA(SingleLoop):
    """As `SOBA`, with grad = d, the moving average of its hypergradients:

        d <- (1 - share) d + share D_h,      begun with the first D_h.

    With all steps and ``share`` (a number, or a function of the outer step) of order 1 / sqrt(k) it needs as many
    minibatches as stochastic gradient descent on one level, and asks for one continuous derivative of the losses less
    than other methods. Source: Chen, Xiao and Balasubramanian, 2023.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    share: StepSize = traced(0.5)
    on_failure: str = "raise"

    def remember(self, task: Task, point: Point, at: Iterate, reference: Scalar) -> PyTree:
        zeros = jax.tree.map(jnp.zeros_like, at.hparams)
        return Averages(reference, jnp.int32(0), zeros, zeros)

    def estimate(self, task: Task, point: Point, at: Iterate, memory: Any) -> Estimates:
        inner, outer = inner_part(task, at, point.inner_batch), outer_part(task, at, point.outer_batch)
        share = jnp.where(memory.step == 0, 1, size_at(self.share, memory.step))
        averaged = lambda old, new: trees.axpy(share, trees.subtract(new, old), old)
        memory = memory._replace(
            cross=averaged(memory.cross, inner.cross), direct=averaged(memory.direct, outer.direct)
        )
        counts = Counts(gradients=2, hessian_products=1, jacobian_products=1)
        return Estimates(inner._replace(cross=memory.cross), outer._replace(direct=memory.direct), memory, counts)
