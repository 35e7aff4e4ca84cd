"""JAXopt's proxes and projections as bilevel's penalties and sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax

from bilevel.constraints import Constraint
from bilevel.foundation.typing import HParams, Params, Scalar
from bilevel.penalties import Penalty


@dataclass(frozen=True, eq=False)
class Proximal(Penalty):
    """A term that is known by prox(point, hyperparams, scaling) alone; the hyperparameters are those of the problem."""

    operator: Callable[..., Params]

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self.operator(point, hparams, step_size)

    def value(self, params: Params, hparams: HParams) -> Scalar:
        raise ValueError(
            "A prox alone does not tell the value of its term, which this solver asks for: use ProximalGradient, or a "
            "penalty of bilevel (bl.L1, bl.GroupLasso, ...) in a bl.InnerProblem."
        )


@dataclass(frozen=True, eq=False)
class Bounds(Constraint):
    """The box [hparams[0], hparams[1]]; the whole space where hparams is None."""

    separable: ClassVar[bool] = True

    def project(self, point: Params, hparams: HParams) -> Params:
        from bilevel import projections

        return point if hparams is None else projections.box(point, *hparams)
