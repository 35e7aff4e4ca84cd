"""Monotone sequences, along the last axis; leading axes are a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, known, valid
from bilevel.kernels.segments import monotone_runs, run_means


@compiles_once
def isotonic(point: ArrayLike) -> jax.Array:
    """The nearest non-decreasing sequence, {p : p_1 <= ... <= p_n}; the point is (..., n).

    Constant on runs, with the mean of x on each; -isotonic(-x) is the nearest non-increasing sequence. Entries may be
    infinite; the mean of their run is then infinite too.

    >>> isotonic(jnp.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    x = as_point(point)
    return x if x.shape[-1] == 0 else jnp.vectorize(_isotonic, signature="(n)->(n)")(x)


def _isotonic(x: jax.Array) -> jax.Array:
    return valid(known(x), run_means(x, monotone_runs(jax.lax.stop_gradient(x))), x)
