"""Sets with a closed-form projection, for the inner problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel import projections
from bilevel.constraints.base import Constraint
from bilevel.foundation.typing import HParams, Params, PyTree
from bilevel.penalties import Parameter, on_leaves, resolve


@dataclass(frozen=True, eq=False)
class Free(Constraint):
    """No constraint."""

    smooth: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    def project(self, point: Params, hparams: HParams) -> Params:
        return point


@dataclass(frozen=True, eq=False)
class Box(Constraint):
    """{w: lower <= w <= upper}, entry by entry; bounds may be infinite, arrays, or functions of hparams.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.Box(lower=0.0, upper=jnp.exp).project(jnp.array([-1.0, 0.5, 3.0]), 0.0).tolist()
    [0.0, 0.5, 1.0]
    """

    lower: Parameter = -jnp.inf
    upper: Parameter = jnp.inf
    separable: ClassVar[bool] = True

    def project(self, point: Params, hparams: HParams) -> Params:
        return on_leaves(projections.box, point, resolve(self.lower, hparams), resolve(self.upper, hparams))

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        def distance(leaf: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
            return jnp.minimum(jnp.abs(leaf - lower), jnp.abs(leaf - upper))

        return on_leaves(distance, point, resolve(self.lower, hparams), resolve(self.upper, hparams))


@dataclass(frozen=True, eq=False)
class Simplex(Constraint):
    """{w: w >= 0, sum of w along the last axis = scale}: each row of w lies in a scaled probability simplex.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.Simplex().project(jnp.array([[1.0, 0.0], [2.0, 2.0]]), None).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """

    scale: Parameter = 1.0
    zero_rows: ClassVar[bool] = False

    def project(self, point: Params, hparams: HParams) -> Params:
        return on_leaves(projections.simplex, point, resolve(self.scale, hparams))

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        def distance(leaf: jax.Array, scale: jax.Array) -> jax.Array:
            projected = projections.simplex(leaf, scale)
            support = projected > 0
            shift = jnp.sum(jnp.where(support, leaf - projected, 0), axis=-1, keepdims=True)
            return jnp.abs(leaf - shift / jnp.sum(support, axis=-1, keepdims=True))

        return on_leaves(distance, point, resolve(self.scale, hparams))
