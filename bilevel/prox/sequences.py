"""Proximal operators of penalties on sequences and on sorted vectors, along the last axis; leading axes are a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, known, like, over_batches, same_rank, valid
from bilevel.kernels.segments import run_means, starts_to_runs, total_variation_jumps
from bilevel.projections.monotone import isotonic


@compiles_once
def total_variation(point: ArrayLike, step_size: ArrayLike = 1.0, weight: ArrayLike = 1.0) -> jax.Array:
    """prox of sum_i weight_i |x_{i+1} - x_i|, the fused lasso on a line, exactly.

    The point is (..., n); ``weight`` is a number or (n - 1,), one for each neighbouring pair: a weight of zero does not
    couple its pair, an infinite one keeps the two equal. On each run the result is the mean of x, moved by the weights
    of the jumps at its ends; this form is differentiated.

    >>> total_variation(jnp.array([0.0, 0.5, 5.0]), 1.0, 1.0).tolist()
    [0.75, 0.75, 4.0]
    """
    x = as_point(point)
    if x.shape[-1] <= 1:
        return x
    step, weight, _ = same_rank(like(step_size, x)[..., None], like(weight, x), x)
    threshold = step * weight
    return _total_variation(x, jnp.broadcast_to(threshold, (*threshold.shape[:-1], x.shape[-1] - 1)))


def _one_total_variation(x: jax.Array, threshold: jax.Array) -> jax.Array:
    enough = 2 * jnp.sum(jnp.abs(x - jnp.mean(x)))  # more than any multiplier, so it acts as infinity
    jumps = total_variation_jumps(*jax.lax.stop_gradient((x, jnp.minimum(threshold, enough))))
    pull = jnp.where(jumps == 0, 0, jumps * threshold)
    moved = x + jnp.pad(pull, (0, 1)) - jnp.pad(pull, (1, 0))
    apart = (jumps != 0) | (threshold == 0)
    return valid(known(x, threshold, enough), run_means(moved, starts_to_runs(jnp.pad(apart, (1, 0)))), x, threshold)


_total_variation = over_batches(_one_total_variation, "(n),(m)->(n)")


@compiles_once
def sorted_l1(point: ArrayLike, step_size: ArrayLike = 1.0, weights: ArrayLike = 1.0) -> jax.Array:
    """prox of sum_i weights_(i) |x|_(i), both sorted downwards: the sorted l1 norm (SLOPE, OWL).

    The point is (..., n), ``weights`` a number (the l1 norm) or (n,), in any order, none negative. Weights 1, 0, ...,
    0 give the l-infinity norm. Reference: Bogdan et al., SLOPE: adaptive variable selection via convex optimization,
    2015.

    >>> sorted_l1(jnp.array([3.0, -2.0, 0.5]), 1.0, jnp.array([2.0, 1.0, 1.0])).tolist()
    [1.0, -1.0, 0.0]
    """
    x = as_point(point)
    step, weights, _ = same_rank(like(step_size, x)[..., None], jnp.broadcast_to(like(weights, x), x.shape[-1:]), x)
    thresholds = step * weights
    sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
    size = sign * x  # its derivative at zero is not zero
    order = jnp.argsort(-jax.lax.stop_gradient(size), axis=-1)
    lowering = jnp.sort(-thresholds, axis=-1)
    means = -isotonic(-(jnp.take_along_axis(size, order, axis=-1) + lowering))
    cut = (means <= 0) & ((means < 0) | (lowering < 0))  # an entry with a weight of zero is not cut at zero
    shrunk = jnp.where(cut, 0, means)
    return sign * jnp.take_along_axis(shrunk, jnp.argsort(order, axis=-1), axis=-1)
