"""MRBO: recursive momentum on both levels, with a Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from bilevel.engines.base import Point, settings, traced
from bilevel.engines.stochastic.double_loop import Adjoint
from bilevel.engines.stochastic.momentum import DoubleMomentum
from bilevel.engines.stochastic.neumann import Product, series
from bilevel.engines.stochastic.steps import StepSize, size_at
from bilevel.foundation.typing import PyTree


@settings
@dataclass(frozen=True)
class MRBO(DoubleMomentum):
    """As `SUSTAIN`, with the whole Neumann series of ``adjoint_steps`` products instead of a random term of it:

        u = b sum_{k <= Q} prod_{i <= k} (I - b H_i) dg/dw

    Proved with the same decreasing steps. Source: Yang, Ji and Liang, 2021.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    share: StepSize = traced(0.5)
    adjoint_steps: int = 10
    on_failure: str = "raise"

    def approach(self, product: Product, cotangent: PyTree, point: Point, step: jax.Array) -> Adjoint:
        size = size_at(self.adjoint_step, step)
        return Adjoint(series(product, cotangent, self.adjoint_steps, size), self.adjoint_steps)
