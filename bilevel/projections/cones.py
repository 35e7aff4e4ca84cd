"""The second-order cone and the cone of positive semidefinite matrices; leading axes are a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, known, norm, unit, valid
from bilevel.kernels.spectral import positive_part


@compiles_once
def second_order_cone(point: ArrayLike) -> jax.Array:
    """The nearest point of {[t, z] : ||z||_2 <= t}; the point is one array (..., 1 + n), t first.

    [t, z] itself inside, 0 where ||z|| <= -t, and (t + ||z||) / 2 * [1, z / ||z||] between.

    >>> second_order_cone(jnp.array([0.0, 3.0, 4.0])).tolist()
    [2.5, 1.5, 2.0]
    """
    x = as_point(point)
    t, z = x[..., :1], x[..., 1:]
    length = norm(z)[..., None]
    outside = length > jnp.abs(t)
    height = 0.5 * (t + length)
    between = jnp.concatenate([height, height * unit(jnp.where(outside, z, 1))], axis=-1)
    return valid(known(x, rows=True), jnp.where(outside, between, jnp.where(t >= length, x, 0)), x)


@compiles_once
def psd_cone(point: ArrayLike) -> jax.Array:
    """The nearest symmetric positive semidefinite matrix; the point is (..., n, n), not necessarily symmetric.

    The positive part of (X + X') / 2. Derivatives, also second ones, are finite at equal eigenvalues.

    >>> psd_cone(jnp.array([[0.0, 2.0], [2.0, 0.0]])).round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    x = as_point(point)
    return jnp.vectorize(positive_part, signature="(n,n)->(n,n)")(0.5 * (x + jnp.swapaxes(x, -1, -2)))
