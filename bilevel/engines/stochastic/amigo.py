"""AmIGO: two warm-started loops."""

from __future__ import annotations

from dataclasses import dataclass

from bilevel.engines.base import settings, traced
from bilevel.engines.stochastic.double_loop import Adjoint, System, TwoLoops, descended
from bilevel.engines.stochastic.steps import StepSize


@settings
@dataclass(frozen=True)
class AmIGO(TwoLoops):
    """``inner_steps`` gradient steps on w and ``adjoint_steps`` on u, both warm-started, then grad = dg/dh - B'u.

    Each step draws a minibatch of its own from the task. Both step sizes are numbers or functions of the outer step
    (`bl.PowerLaw`). Source: Arbel and Mairal, 2022.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    inner_steps: int = 10
    adjoint_steps: int = 10
    on_failure: str = "raise"

    def approach(self, system: System) -> Adjoint:
        return descended(system, system.before, self.adjoint_steps)
