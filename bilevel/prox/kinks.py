"""How far a point is from where the derivative of a proximal operator jumps: (point, step_size, *weights) -> distances
of any shape, zero at a kink, infinity where nothing can jump. Points and weights are arrays of one dtype.

Without a weight (step_size * weight = 0) there is no kink, because the operator is then the identity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.kernels.arrays import norm, same_rank
from bilevel.projections import kinks
from bilevel.projections.monotone import isotonic
from bilevel.prox.sequences import total_variation as shrink_jumps


def l1(x: jax.Array, step: jax.Array, weight: jax.Array, *others: jax.Array) -> jax.Array:
    """Distances to the threshold, which a smooth term beside the l1 norm does not change."""
    return _from_threshold(jnp.abs(x), step * weight)


def non_negative_l1(x: jax.Array, step: jax.Array, weight: jax.Array) -> jax.Array:
    x, threshold = same_rank(x, step * weight)
    return jnp.abs(x - threshold)


def non_negative_ridge(x: jax.Array, step: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.abs(x)


def huber(x: jax.Array, step: jax.Array, weight: jax.Array, delta: jax.Array) -> jax.Array:
    x, step, weight, delta = same_rank(x, step, weight, delta)
    distance = jnp.abs(jnp.abs(x) - delta * (1 + step * weight))
    return jnp.where(step * weight == 0, jnp.inf, distance)


def log_barrier(x: jax.Array, step: jax.Array, weight: jax.Array) -> jax.Array:
    x, step, weight = same_rank(x, step, weight)
    return jnp.where(step * weight == 0, jnp.abs(x), jnp.inf)


def group_lasso(x: jax.Array, step: jax.Array, weight: jax.Array) -> jax.Array:
    """One for each group, the last axis kept."""
    return _from_threshold(norm(x), step * weight)[..., None]


def l_inf(x: jax.Array, step: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.where(step * weight == 0, jnp.inf, kinks.l1_ball(x, step * weight))


def nuclear_norm(x: jax.Array, step: jax.Array, weight: jax.Array) -> jax.Array:
    return _from_threshold(jnp.linalg.svd(x, compute_uv=False), (step * weight)[..., None])


def total_variation(x: jax.Array, step: jax.Array, weight: jax.Array) -> jax.Array:
    """One for each neighbouring pair: its jump, or how far its multiplier is from the weight."""
    if x.shape[-1] <= 1:
        return jnp.full_like(x, jnp.inf)
    result = shrink_jumps(x, step, weight)
    step, weight, _ = same_rank(step[..., None], weight, x)
    threshold = step * weight
    multiplier = jnp.abs(jnp.cumsum(x - result, axis=-1)[..., :-1])
    distance = jnp.maximum(jnp.abs(jnp.diff(result, axis=-1)), threshold - multiplier)
    return jnp.where(threshold == 0, jnp.inf, distance)


def sorted_l1(x: jax.Array, step: jax.Array, weights: jax.Array) -> jax.Array:
    """One for each entry, to zero, and one for each pair in descending order, to joining or leaving a run.

    A pair with equal weights, each a run of its own, may change places without a kink; so may entries that are zero.
    """
    step, weights, _ = same_rank(step[..., None], jnp.broadcast_to(weights, x.shape[-1:]), x)
    lowering = jnp.sort(step * weights, axis=-1, descending=True)
    lowered = jnp.sort(jnp.abs(x), axis=-1, descending=True) - lowering
    means = -isotonic(-lowered)
    to_zero = jnp.where((means == 0) & (lowering == 0), jnp.inf, jnp.abs(means))
    pairs = jnp.maximum(-jnp.diff(means, axis=-1), jnp.abs(jnp.cumsum(lowered - means, axis=-1)[..., :-1]))
    alone = means == lowered
    free = (jnp.diff(lowering, axis=-1) == 0) & alone[..., 1:] & alone[..., :-1]
    return jnp.concatenate([to_zero, jnp.where(free | (means[..., :-1] <= 0), jnp.inf, pairs)], axis=-1)


def _from_threshold(size: jax.Array, threshold: jax.Array) -> jax.Array:
    size, threshold = same_rank(size, threshold)
    return jnp.where(threshold == 0, jnp.inf, jnp.abs(size - threshold))
