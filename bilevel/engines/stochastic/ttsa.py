"""TTSA: one inner step on a faster time scale than the outer one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bilevel.engines.base import settings, traced
from bilevel.engines.stochastic.double_loop import Adjoint, System, TwoLoops
from bilevel.engines.stochastic.neumann import chosen_term, random_term
from bilevel.engines.stochastic.steps import StepSize


@settings
@dataclass(frozen=True)
class TTSA(TwoLoops):
    """As `BSA` with one gradient step on w: the inner unknown follows because the outer steps decrease faster.

    Proved with ``step_size=bl.PowerLaw(a, 2 / 5)`` and an outer optimiser with ``bl.PowerLaw(b, 3 / 5)``.
    Source: Hong, Wai, Wang and Yang, 2020.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    adjoint_steps: int = 10
    on_failure: str = "raise"
    inner_steps: ClassVar[int] = 1
    biased: ClassVar[bool] = True

    def approach(self, system: System) -> Adjoint:
        chosen = chosen_term(system.point, system.step, self.adjoint_steps)
        return Adjoint(random_term(system.product, system.cotangent, chosen, self.adjoint_steps, system.size), chosen)
