"""The simplex, its sparse and its entropic variant, along the last axis; leading axes are a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import Setting, compiles_once
from bilevel.kernels.arrays import as_point, known, of_rows, valid

FEW = 32  # all pairs are compared in rows of up to so many entries


@compiles_once
def simplex(point: ArrayLike, total: ArrayLike = 1.0) -> jax.Array:
    """The nearest point of {p : p >= 0, sum p = total}: max(x - tau, 0), with tau set by the sum.

    ``point`` is (..., n), ``total`` broadcasts against (...). NaN where total < 0: no point is feasible there. At total
    = 0, where the set is one point, the derivative in the total is one-sided, for a growing total. Sorting finds the
    support, on which tau = (sum x - total) / size is differentiated. Reference: Held, Wolfe and Crowder, Validation of
    subgradient optimization, 1974.

    >>> simplex(jnp.array([0.5, 1.0, -2.0])).tolist()
    [0.25, 0.75, 0.0]
    """
    x = as_point(point)
    total = of_rows(total, x)
    largest = jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf)
    x = x - jax.lax.stop_gradient(largest)  # no cancellation; the projection is the same
    support = jax.lax.stop_gradient((x > threshold(x, total)) | (x == 0))  # the largest entry is always in
    size = jnp.maximum(jnp.sum(support, axis=-1, keepdims=True), 1)
    shifted = jnp.where(support & (total != 0), x, 0)  # for a total of zero the point is 0 and does not move
    tau = (jnp.sum(shifted, axis=-1, keepdims=True) - total) / size
    projected = jnp.where(support, _at_least_zero(shifted - tau), 0)
    return valid((total >= 0) & known(x, rows=True), projected, x, total)


def sparse_simplex(point: ArrayLike, max_nonzeros: int, total: ArrayLike = 1.0) -> jax.Array:
    """A nearest point of {p : p >= 0, sum p = total, at most max_nonzeros entries differ from zero}.

    The largest ``max_nonzeros`` entries are projected onto the simplex. The set is not convex: with a tie for the
    last place there are several nearest points, and the first is taken. Reference: Kyrillidis et al., Sparse
    projections onto the simplex, 2013.

    >>> sparse_simplex(jnp.array([0.5, 1.0, 0.4]), 2).tolist()
    [0.25, 0.75, 0.0]
    """
    x = as_point(point)
    if not 1 <= max_nonzeros <= x.shape[-1]:
        raise ValueError(
            f"sparse_simplex keeps between 1 and {x.shape[-1]} entries of a point of shape {x.shape}, "
            f"not max_nonzeros={max_nonzeros}. Choose a number in that range."
        )
    return _sparse_simplex(x, Setting(max_nonzeros), total)


@compiles_once
def _sparse_simplex(x: jax.Array, max_nonzeros: Setting, total: ArrayLike) -> jax.Array:
    largest, places = jax.lax.top_k(x, max_nonzeros.value)
    return jnp.put_along_axis(jnp.zeros_like(x), places, simplex(largest, total), axis=-1, inplace=False)


@compiles_once
def simplex_kl(point: ArrayLike, total: ArrayLike = 1.0) -> jax.Array:
    """The projection onto the simplex in the geometry of the entropy: total * softmax(v).

    The minimiser of sum p log p - <p, v> over {p : p >= 0, sum p = total}; ``point`` is a dual point v, (..., n).

    >>> simplex_kl(jnp.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    v = as_point(point)
    total = of_rows(total, v)
    return valid(total >= 0, total * jax.nn.softmax(v, axis=-1), v, total)


def threshold(x: jax.Array, total: ArrayLike) -> jax.Array:
    """tau with sum max(x - tau, 0) = total along the last axis, which both arguments keep.

    By sorting. Short rows compare all pairs instead, because a sort costs more there: x_i is above tau where sum_j
    max(x_j - x_i, 0) < total.
    """
    if x.shape[-1] <= FEW:
        excesses = [jnp.maximum(x[..., j : j + 1] - x, 0) for j in range(x.shape[-1])]
        above = sum(excesses, jnp.zeros_like(x)) <= jnp.asarray(total)
        size = jnp.maximum(jnp.sum(above, axis=-1, keepdims=True), 1)
        tau = (jnp.sum(jnp.where(above, x, 0), axis=-1, keepdims=True) - total) / size
        return tau + 0 * jnp.max(x, axis=-1, keepdims=True, initial=-1)  # NaN stays NaN
    descending = -jnp.sort(-x, axis=-1)
    number = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    excess = (jnp.cumsum(descending, axis=-1) - total) / number
    last = jnp.sum(descending > excess, axis=-1, keepdims=True) - 1
    return jnp.take_along_axis(excess, jnp.maximum(last, 0), axis=-1)


def _at_least_zero(x: jax.Array) -> jax.Array:
    # clears the sign of rounding errors without touching the derivative, which is decided by the support
    return x + jax.lax.stop_gradient(jnp.maximum(x, 0) - x)
