"""BSA: a warm-started inner loop, and one random term of a Neumann series for the adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bilevel.engines.base import settings, traced
from bilevel.engines.stochastic.double_loop import Adjoint, System, TwoLoops
from bilevel.engines.stochastic.neumann import chosen_term, random_term
from bilevel.engines.stochastic.steps import StepSize


@settings
@dataclass(frozen=True)
class BSA(TwoLoops):
    """``inner_steps`` gradient steps on w, then grad = dg/dh - B'u with one random term of a Neumann series,

        u = N b prod_{i <= p} (I - b H_i) dg/dw,      p uniform in 0 ... N - 1,

    of which the mean is the series with N = ``adjoint_steps`` terms; b is ``adjoint_step``, below 1/L. A step takes p
    products, so ``counts`` differ from step to step. Proved with steps that decrease like 1 / sqrt(k) (`bl.PowerLaw`).
    Source: Ghadimi and Wang, 2018.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    inner_steps: int = 10
    adjoint_steps: int = 10
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def approach(self, system: System) -> Adjoint:
        chosen = chosen_term(system.point, system.step, self.adjoint_steps)
        return Adjoint(random_term(system.product, system.cotangent, chosen, self.adjoint_steps, system.size), chosen)
