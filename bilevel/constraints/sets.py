"""The sets that most problems have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel import projections
from bilevel.constraints.base import Constraint
from bilevel.constraints.parametric import ParametricSet, Projection
from bilevel.foundation.typing import HParams, Params, PyTree
from bilevel.penalties import Parameter, Zero, extent
from bilevel.projections import kinks


@dataclass(frozen=True, eq=False)
class Free(Constraint):
    """No constraint."""

    smooth: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    separable: ClassVar[bool] = True

    def project(self, point: Params, hparams: HParams) -> Params:
        return point

    def kinks(self, point: Params, step_size: float | jax.Array, hparams: HParams) -> PyTree:
        return Zero().kinks(point, step_size, hparams)


@dataclass(frozen=True, eq=False)
class Box(ParametricSet):
    """{w: lower <= w <= upper}, entry by entry; bounds may be infinite, arrays, or functions of hparams.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.Box(lower=0.0, upper=jnp.exp).project(jnp.array([-1.0, 0.5, 3.0]), 0.0).tolist()
    [0.0, 0.5, 1.0]
    """

    lower: Parameter = -jnp.inf
    upper: Parameter = jnp.inf
    separable: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    projection = Projection(extent.entries, projections.box, kinks.box)


@dataclass(frozen=True, eq=False)
class Simplex(ParametricSet):
    """{w: w >= 0, sum of w along the last axis = scale}: each row of w lies in a scaled probability simplex.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.Simplex().project(jnp.array([[1.0, 0.0], [2.0, 2.0]]), None).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """

    scale: Parameter = 1.0
    by_rows: ClassVar[bool] = True
    zero_rows: ClassVar[bool] = False
    convex: ClassVar[bool] = True
    projection = Projection(extent.rows, projections.simplex, kinks.simplex)
