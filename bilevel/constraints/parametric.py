"""Sets that are one function of the point and their fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax

from bilevel.constraints.base import Constraint
from bilevel.foundation.typing import HParams, Params, PyTree
from bilevel.penalties import extent
from bilevel.penalties.parametric import distances, in_one_dtype, pieces_of


class Projection(NamedTuple):
    """The three facts that make a set: the pieces of a tree that it acts on, its projection, and the kinks of that."""

    reach: extent.Extent
    operator: Callable[..., jax.Array]  # (point, *parameters) -> point
    distance: Callable[..., jax.Array]  # (point, *parameters) -> distances to all kinks


class ParametricSet(Constraint):
    """A set on the pieces of a tree that its projection reaches. Its fields are, in order, the parameters of its
    projection and of the distance to its kinks."""

    projection: ClassVar[Projection]

    def project(self, point: Params, hparams: HParams) -> Params:
        return self._pieces(point, hparams).apply(in_one_dtype(self.projection.operator))

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return distances(self, self._pieces(point, hparams), self.projection.distance)

    def _pieces(self, point: Params, hparams: HParams) -> extent.Pieces:
        return pieces_of(self, self.projection.reach, point, hparams)
