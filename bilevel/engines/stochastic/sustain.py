"""SUSTAIN: recursive momentum on both levels, with a random term of a Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from bilevel.engines.base import Point, settings, traced
from bilevel.engines.stochastic.double_loop import Adjoint
from bilevel.engines.stochastic.momentum import DoubleMomentum
from bilevel.engines.stochastic.neumann import Product, chosen_term, random_term
from bilevel.engines.stochastic.steps import StepSize, size_at
from bilevel.foundation.typing import PyTree


@settings
@dataclass(frozen=True)
class SUSTAIN(DoubleMomentum):
    """w <- w - a d_w, grad = d_h, with recursive momentum (STORM) on the inner gradient and on the hypergradient,

        d <- D + (1 - share) (d - D_before),      D_h = dg/dh - B'u,

    D and D_before on the same minibatches at this iterate and at the one before, with the random u of `BSA`. Proved
    with ``step_size=bl.PowerLaw(a, 1 / 3)``, ``share=bl.PowerLaw(s, 2 / 3)`` and outer steps like the inner ones.
    Source: Khanduri et al., 2021.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    share: StepSize = traced(0.5)
    adjoint_steps: int = 10
    on_failure: str = "raise"

    def approach(self, product: Product, cotangent: PyTree, point: Point, step: jax.Array) -> Adjoint:
        chosen = chosen_term(point, step, self.adjoint_steps)
        size = size_at(self.adjoint_step, step)
        return Adjoint(random_term(product, cotangent, chosen, self.adjoint_steps, size), chosen)
