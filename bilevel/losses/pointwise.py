"""Losses of one prediction and one target, with their second derivatives in the prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Pointwise(NamedTuple):
    """value(z, y) of shape (n,), and its second derivative in z: (n,), or (n, k, k) for predictions (n, k)."""

    value: Callable[[jax.Array, jax.Array], jax.Array]
    curvature: Callable[[jax.Array, jax.Array], jax.Array]
    classifies: bool = False  # the targets are the numbers of classes


def _signs(labels: jax.Array, like: jax.Array) -> jax.Array:
    """-1 and 1 for the labels 0 and 1, NaN for any other, so that a wrong coding is never a plausible loss."""
    signs = jnp.where(labels == 1, 1.0, jnp.where(labels == 0, -1.0, jnp.nan))
    return signs.astype(like.dtype)


SQUARED = Pointwise(lambda z, y: 0.5 * (z - y) ** 2, lambda z, y: jnp.ones_like(z))


def _logistic_curvature(z: jax.Array, labels: jax.Array) -> jax.Array:
    share = jax.nn.sigmoid(z)
    return share * (1 - share)


LOGISTIC = Pointwise(lambda z, y: jax.nn.softplus(-_signs(y, z) * z), _logistic_curvature, classifies=True)


def cross_entropy(logits: jax.Array, labels: jax.Array | np.ndarray) -> jax.Array:
    """-log softmax(logits)[label], for each sample; NaN for a label that is no class. Computed with a mask, because
    each derivative of a lookup compiles to a loop."""
    labels, classes = jnp.asarray(labels), logits.shape[1]
    chosen = labels[:, None] == jnp.arange(classes)
    losses = -jnp.sum(jnp.where(chosen, jax.nn.log_softmax(logits), 0), axis=1)
    # Compared with the bounds, because a reduction of ``chosen`` compiles to a loop of its own.
    known = (labels >= 0) & (labels < classes) & (labels == jnp.floor(labels))
    return jnp.where(known, losses, jnp.nan)


def _softmax_curvature(logits: jax.Array, labels: jax.Array) -> jax.Array:
    shares = jax.nn.softmax(logits)
    return shares[:, :, None] * (jnp.eye(shares.shape[1]) - shares[:, None, :])


MULTINOMIAL = Pointwise(cross_entropy, _softmax_curvature, classifies=True)


def _margin(z: jax.Array, labels: jax.Array) -> jax.Array:
    return 1 - _signs(labels, z) * z


SQUARED_HINGE = Pointwise(
    lambda z, y: jnp.maximum(_margin(z, y), 0) ** 2,
    lambda z, y: jnp.where(_margin(z, y) > 0, 2.0, 0.0).astype(z.dtype),
    classifies=True,
)


def huber(threshold: jax.Array | float) -> Pointwise:
    """1/2 r^2 up to |r| = threshold, and its tangents beyond; r = z - y."""

    def value(z: jax.Array, y: jax.Array) -> jax.Array:
        r = z - y
        near = jnp.clip(r, -threshold, threshold)  # the slope; from |r| the second derivative at r = 0 would be 0
        return near * (r - 0.5 * near)

    return Pointwise(value, lambda z, y: (jnp.abs(z - y) < threshold).astype(z.dtype))


def quantile(level: jax.Array | float, width: jax.Array | float) -> Pointwise:
    """The pinball loss max(level r, (level - 1) r) of r = y - z, its kink rounded over ``width`` (its Moreau
    envelope). It lies below the pinball loss by at most width/2 max(level, 1 - level)^2."""

    def value(z: jax.Array, y: jax.Array) -> jax.Array:
        r = y - z
        slope = jnp.clip(r / width, level - 1, level)
        return slope * (r - 0.5 * width * slope)

    def curvature(z: jax.Array, y: jax.Array) -> jax.Array:
        slope = (y - z) / width
        return jnp.where((slope > level - 1) & (slope < level), 1 / width, 0.0).astype(z.dtype)

    return Pointwise(value, curvature)


POISSON = Pointwise(lambda z, y: jnp.exp(z) - y * z, lambda z, y: jnp.exp(z))
