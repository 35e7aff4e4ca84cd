"""Robust losses: functions of squared residuals that grow more slowly than the squares of outliers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import HParams

Scale = float | jax.Array | Callable[[HParams], Any]


def squares(squared: jax.Array, hparams: HParams) -> jax.Array:
    """rho(z) = z: plain least squares."""
    return squared


def _relative(squared: jax.Array, scale: Scale, hparams: HParams) -> tuple[jax.Array, jax.Array]:
    """z / scale^2 and scale^2 in the type of z."""
    value = jnp.asarray(scale(hparams) if callable(scale) else scale)
    unit = jnp.square(value).astype(squared.dtype)
    return squared / unit, unit


@dataclass(frozen=True, eq=False)
class HuberRho:
    """rho(z) = z up to scale^2, 2 scale sqrt(z) - scale^2 beyond: quadratic for residuals up to ``scale``, then linear.

    ``scale`` is positive: a number, an array with an entry for each residual in the order of the raveled tree, or a
    function of hparams.
    Source: Huber, 1964; as SciPy's ``least_squares`` states it.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.losses.HuberRho(scale=1.0)(jnp.array([0.25, 4.0]), None).tolist()
    [0.25, 3.0]
    """

    scale: Scale = 1.0

    def __call__(self, squared: jax.Array, hparams: HParams) -> jax.Array:
        ratio, unit = _relative(squared, self.scale, hparams)
        outside = jnp.where(ratio > 1, ratio, 1)  # its root has no derivative at zero
        return unit * jnp.where(ratio > 1, 2 * jnp.sqrt(outside) - 1, ratio)


@dataclass(frozen=True, eq=False)
class CauchyRho:
    """rho(z) = scale^2 log(1 + z / scale^2): outliers lose all weight in the end; not convex.

    ``scale`` is positive: a number, an array with an entry for each residual in the order of the raveled tree, or a
    function of hparams.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> round(float(bl.losses.CauchyRho(scale=1.0)(jnp.exp(1.0) - 1, None)), 5)
    1.0
    """

    scale: Scale = 1.0

    def __call__(self, squared: jax.Array, hparams: HParams) -> jax.Array:
        ratio, unit = _relative(squared, self.scale, hparams)
        return unit * jnp.log1p(ratio)
