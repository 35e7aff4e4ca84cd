"""A feasible set, known by its Euclidean projection."""

from __future__ import annotations

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import HParams, Params, Scalar
from bilevel.penalties import Penalty


class Constraint(Penalty):
    """A closed convex set as a penalty: its prox is the projection, whatever the step size."""

    by_functions: ClassVar[bool] = False  # stated by functions instead: the unknown then holds multipliers too

    @abc.abstractmethod
    def project(self, point: Params, hparams: HParams) -> Params:
        """The nearest point of the set in the Euclidean norm."""

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self.project(point, hparams)

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return jnp.zeros(())
