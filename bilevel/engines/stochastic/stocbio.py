"""StocBiO: a warm-started inner loop, and a Neumann series for the adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel.engines.base import settings, traced
from bilevel.engines.stochastic.double_loop import Adjoint, System, TwoLoops, descended
from bilevel.engines.stochastic.steps import StepSize


@settings
@dataclass(frozen=True)
class StocBiO(TwoLoops):
    """As `AmIGO`, with the adjoint started at zero each time: a stochastic Neumann series of ``adjoint_steps`` terms.

    Source: Ji, Yang and Liang, 2021.
    """

    step_size: StepSize = traced(0.1)
    adjoint_step: StepSize = traced(0.1)
    inner_steps: int = 10
    adjoint_steps: int = 10
    on_failure: str = "raise"
    biased: ClassVar[bool] = True

    def approach(self, system: System) -> Adjoint:
        return descended(system, jax.tree.map(jnp.zeros_like, system.before), self.adjoint_steps)
