"""Monotone sequences, along the last axis; leading axes are a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, known, valid
from bilevel.kernels.segments import monotone_runs, run_means
from bilevel.projections.elementwise import box


def isotonic(
    point: ArrayLike, lower: ArrayLike = -jnp.inf, upper: ArrayLike = jnp.inf, *, increasing: bool = True
) -> jax.Array:
    """The nearest monotone sequence between bounds, {p : lower <= p_1 <= ... <= p_n <= upper}; the point is (..., n).

    Constant on runs, with the mean of x on each, and cut off at the bounds; non-increasing with ``increasing=False``.
    Entries may be infinite; the mean of their run is then infinite too. NaN where lower > upper.

    >>> isotonic(jnp.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    >>> isotonic(jnp.array([1.0, 3.0, 2.0, 4.0]), upper=3.0).tolist()
    [1.0, 2.5, 2.5, 3.0]
    >>> isotonic(jnp.array([1.0, 3.0, 2.0, 4.0]), increasing=False).tolist()
    [2.5, 2.5, 2.5, 2.5]
    """
    if not increasing:
        return -isotonic(-jnp.asarray(point), -jnp.asarray(upper), -jnp.asarray(lower))
    if _is_number(lower, -jnp.inf) and _is_number(upper, jnp.inf):
        return _free(point)
    return box(_free(point), lower, upper)


@compiles_once
def _free(point: ArrayLike) -> jax.Array:
    x = as_point(point)
    return x if x.shape[-1] == 0 else jnp.vectorize(_isotonic, signature="(n)->(n)")(x)


def _is_number(bound: ArrayLike, number: float) -> bool:
    """Whether a bound is this very number; a traced one is not known."""
    return isinstance(bound, float) and bound == number


def _isotonic(x: jax.Array) -> jax.Array:
    return valid(known(x), run_means(x, monotone_runs(jax.lax.stop_gradient(x))), x)
