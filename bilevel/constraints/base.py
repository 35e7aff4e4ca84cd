"""A feasible set, known by its Euclidean projection."""

from __future__ import annotations

import abc
from typing import ClassVar

import jax

from bilevel.foundation.typing import HParams, Params, Scalar
from bilevel.penalties import Penalty
from bilevel.penalties.base import nothing


class Constraint(Penalty):
    """A closed set as a penalty: its prox is the projection for every step size.

    The sets of the catalogue are convex, unless they say otherwise. The projection on a set that is not convex is one
    of the nearest points, and a solution of the first-order condition may be a local minimum.
    """

    is_set: ClassVar[bool] = True
    by_functions: ClassVar[bool] = False  # stated by functions, so that the unknown holds multipliers too

    @abc.abstractmethod
    def project(self, point: Params, hparams: HParams) -> Params:
        """The nearest point of the set in the Euclidean norm."""

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self.project(point, hparams)

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return nothing(params)
