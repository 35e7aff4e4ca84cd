"""Proximal operators of sums over single coordinates; steps and weights broadcast against the pytree of the point."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.foundation.eager import compiles_once
from bilevel.foundation.typing import PyTree
from bilevel.kernels.arrays import as_point, map_leaves


@compiles_once
def zero(point: PyTree, step_size: PyTree = 1.0) -> PyTree:
    """prox of 0: the point itself.

    >>> zero(jnp.array([-1.0, 2.0])).tolist()
    [-1.0, 2.0]
    """
    del step_size
    return jax.tree.map(as_point, point)


@compiles_once
def l1(point: PyTree, step_size: PyTree = 1.0, weight: PyTree = 1.0) -> PyTree:
    """prox of weight * ||x||_1: sign(x) max(|x| - step_size * weight, 0), the soft threshold.

    >>> l1(jnp.array([-1.0, 2.0, 0.5]), 0.5, 1.0).tolist()
    [-0.5, 1.5, 0.0]
    """
    return map_leaves(lambda x, step, w: _shrink(x, step * w), point, step_size, weight)


@compiles_once
def non_negative_l1(point: PyTree, step_size: PyTree = 1.0, weight: PyTree = 1.0) -> PyTree:
    """prox of weight * sum x on {x >= 0}: max(x - step_size * weight, 0).

    >>> non_negative_l1(jnp.array([-1.0, 2.0]), 0.5, 1.0).tolist()
    [0.0, 1.5]
    """
    return map_leaves(lambda x, step, w: jax.nn.relu(x - step * w), point, step_size, weight)


@compiles_once
def elastic_net(point: PyTree, step_size: PyTree = 1.0, l1: PyTree = 1.0, l2: PyTree = 1.0) -> PyTree:
    """prox of l1 * ||x||_1 + l2 / 2 * ||x||_2^2: the soft threshold over 1 + step_size * l2. Mind the factor 1/2.

    >>> elastic_net(jnp.array([-1.0, 2.0]), 0.5, 1.0, 1.0).tolist()
    [-0.3333333..., 1.0]
    """
    return map_leaves(lambda x, step, a, b: _shrink(x, step * a) / (1 + step * b), point, step_size, l1, l2)


@compiles_once
def ridge(point: PyTree, step_size: PyTree = 1.0, weight: PyTree = 1.0) -> PyTree:
    """prox of weight / 2 * ||x||_2^2: x / (1 + step_size * weight). Mind the factor 1/2.

    >>> ridge(jnp.array([-1.0, 2.0]), 0.5, 2.0).tolist()
    [-0.5, 1.0]
    """
    return map_leaves(lambda x, step, w: x / (1 + step * w), point, step_size, weight)


@compiles_once
def non_negative_ridge(point: PyTree, step_size: PyTree = 1.0, weight: PyTree = 1.0) -> PyTree:
    """prox of weight / 2 * ||x||_2^2 on {x >= 0}: max(x, 0) / (1 + step_size * weight).

    >>> non_negative_ridge(jnp.array([-1.0, 2.0]), 0.5, 2.0).tolist()
    [0.0, 1.0]
    """
    return map_leaves(lambda x, step, w: jax.nn.relu(x) / (1 + step * w), point, step_size, weight)


@compiles_once
def huber(point: PyTree, step_size: PyTree = 1.0, weight: PyTree = 1.0, delta: PyTree = 1.0) -> PyTree:
    """prox of weight * sum h(x), h(x) = x^2 / 2 for |x| <= delta and delta |x| - delta^2 / 2 beyond.

    With t = step_size * weight: x / (1 + t) where |x| <= delta (1 + t), and sign(x) (|x| - t delta) beyond.

    >>> huber(jnp.array([-1.0, 4.0]), 1.0, 1.0, 1.0).tolist()
    [-0.5, 3.0]
    """

    def leaf(x: jax.Array, step: jax.Array, w: jax.Array, delta: jax.Array) -> jax.Array:
        t = step * w
        return jnp.where(jnp.abs(x) <= delta * (1 + t), x / (1 + t), x - jnp.sign(x) * t * delta)

    return map_leaves(leaf, point, step_size, weight, delta)


@compiles_once
def log_barrier(point: PyTree, step_size: PyTree = 1.0, weight: PyTree = 1.0) -> PyTree:
    """prox of -weight * sum log x: (x + sqrt(x^2 + 4 step_size * weight)) / 2, positive for positive weights.

    >>> log_barrier(jnp.array([0.0, 1.5]), 1.0, 1.0).tolist()
    [1.0, 2.0]
    """
    return map_leaves(lambda x, step, w: _positive_root(x, step * w), point, step_size, weight)


def _shrink(x: jax.Array, threshold: jax.Array) -> jax.Array:
    """The soft threshold; the identity without a threshold, at zero too. NaN stays NaN, because no comparison with it
    holds."""
    cut = (jnp.abs(x) <= threshold) & (threshold > 0)
    return jnp.where(cut, 0, x - jnp.sign(x) * threshold)


def _positive_root(x: jax.Array, c: jax.Array) -> jax.Array:
    """The root p >= 0 of p^2 - x p - c = 0, without cancellation for x < 0 and without overflow."""
    size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(x), jnp.sqrt(jnp.maximum(c, 0))))
    scale = jnp.where(size > 0, size, 1)
    square = (x / scale) ** 2 + 4 * (c / scale) / scale
    root = scale * jnp.sqrt(jnp.where(size > 0, square, 1))
    falling = 2 * c / jnp.where(x < 0, root - x, 1)
    return jnp.where(size == 0, 0, jnp.where(x < 0, falling, 0.5 * (x + root)))
