"""Sets that are one function of the point and their fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax

from bilevel.constraints.base import Constraint
from bilevel.foundation.typing import HParams, Params, PyTree
from bilevel.penalties import extent
from bilevel.penalties.parametric import distances, pieces_of


class ParametricSet(Constraint):
    """A set on the pieces that ``reach`` makes of a tree. Its fields are, in order, the parameters of its projection
    and of the distance to its kinks."""

    reach: ClassVar[extent.Extent]
    operator: ClassVar[Callable[..., jax.Array]]  # (point, *parameters) -> point
    distance: ClassVar[Callable[..., jax.Array]]  # (point, *parameters) -> distances to all kinks

    def project(self, point: Params, hparams: HParams) -> Params:
        return self._pieces(point, hparams).apply(type(self).operator)

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return distances(self, self._pieces(point, hparams), type(self).distance)

    def _pieces(self, point: Params, hparams: HParams) -> extent.Pieces:
        return pieces_of(self, type(self).reach, point, hparams)
