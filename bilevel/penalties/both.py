"""A separable penalty inside a box."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import HParams, Params, PyTree, Scalar
from bilevel.penalties.base import Penalty


@dataclass(frozen=True, eq=False)
class Both(Penalty):
    """A separable penalty inside a separable set. Clipping after the prox is exact, because both are convex functions
    of one variable."""

    penalty: Penalty
    constraint: Penalty

    @property
    def as_set(self) -> Penalty:
        return self.constraint

    @property
    def convex(self) -> bool:  # type: ignore[override]  # as its parts are, not as the class is
        return self.penalty.convex and self.constraint.convex

    def prox(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> Params:
        return self.constraint.prox(self.penalty.prox(point, step_size, hparams), step_size, hparams)

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        inner = self.penalty.kinks(point, step_size, hparams)
        outer = self.constraint.kinks(self.penalty.prox(point, step_size, hparams), step_size, hparams)
        held = self._held_twice(point, step_size, hparams)
        outer = jax.tree.map(lambda distance, still: jnp.where(still, jnp.inf, distance), outer, held)
        return jax.tree.map(jnp.minimum, inner, outer)

    def _held_twice(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        """Where the penalty holds a coordinate at a bound of the set that does not move, as zero often is: nothing can
        jump there."""
        ones = jax.tree.map(jnp.ones_like, point)
        shrunk, slopes = jax.jvp(lambda z: self.penalty.prox(z, step_size, hparams), (point,), (ones,))
        direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(1.0, leaf.size + 1)).reshape(leaf.shape), hparams)
        _, moved = jax.jvp(lambda h: self.constraint.prox(shrunk, step_size, h), (hparams,), (direction,))
        return jax.tree.map(lambda slope, move: (slope == 0) & (move == 0), slopes, moved)

    def value(self, params: Params, hparams: HParams) -> Scalar:
        return self.penalty.value(params, hparams)
