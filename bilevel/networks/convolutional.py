"""A small convolutional network, whose last layer is its features."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen

EPSILON = 1e-6  # added to a variance, as flax does
POOLINGS = {"max": linen.max_pool, "mean": linen.avg_pool}


class Convolutional(linen.Module):
    """Blocks of a 3 x 3 convolution, group normalisation, a rectifier and pooling by 2, down to features (n, d).

    Images are pooled while their shorter side is more than ``smallest`` pixels. ``pooling``: "max", or "mean", which
    moves less when the image does. ``unit``: features of length 1, so that inner products are cosines; otherwise the
    activations divided by the root of their number.

    Group normalisation and not BatchNorm, because the features of an image then depend on that image alone: an episode
    of few images is no batch, and a query tells nothing about another query.
    """

    channels: Sequence[int] = (32, 64, 64)
    groups: int = 8
    pooling: str = "max"
    smallest: int = 1
    unit: bool = False

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images[..., None]
        for width in self.channels:
            x = linen.relu(linen.GroupNorm(num_groups=min(self.groups, width))(linen.Conv(width, (3, 3))(x)))
            x = POOLINGS[self.pooling](x, (2, 2), (2, 2)) if min(x.shape[1:3]) > self.smallest else x
        flat = x.reshape(len(x), -1)
        if self.unit:
            return flat / jnp.sqrt(jnp.sum(flat**2, axis=1, keepdims=True) + jnp.finfo(flat.dtype).tiny)
        return flat / jnp.sqrt(flat.shape[1])


class SmoothConvolutional(linen.Module):
    """Blocks of a 3 x 3 convolution, group normalisation, a smooth rectifier and mean pooling by 2, and a linear layer
    with ``outputs`` values; images are pooled down to 1 pixel on their shorter side.

    Smooth, because the solution of an inner problem in these weights is differentiated: at the kinks of a rectifier or
    of a maximum its optimality condition has no derivative.

    A convolution is written as the product of the weights with the patches of the image. With weights for each lane
    `vmap` makes a grouped convolution of `linen.Conv`. XLA takes 66 times as long for its gradient on a CPU (8 lanes of
    5 images of 14 x 14, 32 channels, two cores beside other work: 270 ms against 4 ms).
    """

    channels: Sequence[int] = (32, 32, 32)
    groups: int = 8
    outputs: int = 5

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images[..., None]
        for number, width in enumerate(self.channels):
            x = linen.Dense(width, use_bias=False, name=f"block_{number}")(patches(x))
            scale = self.param(f"block_{number}_scale", linen.initializers.ones, (width,))
            shift = self.param(f"block_{number}_shift", linen.initializers.zeros, (width,))
            x = linen.silu(scale * normalised(x, min(self.groups, width)) + shift)
            x = linen.avg_pool(x, (2, 2), (2, 2)) if min(x.shape[1:3]) > 1 else x
        return linen.Dense(self.outputs, name="outputs")(x.reshape(len(x), -1))


def normalised(images: jax.Array, groups: int) -> jax.Array:
    """Zero mean and unit variance over the pixels and channels of each group of channels.

    Not flax's module, because that takes several times as many operations, and a program that differentiates a solution
    compiles their second derivatives many times.
    """
    parts = images.reshape(*images.shape[:3], groups, -1)
    centred = parts - jnp.mean(parts, axis=(1, 2, 4), keepdims=True)
    variance = jnp.mean(centred**2, axis=(1, 2, 4), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + EPSILON)).reshape(images.shape)


def patches(images: jax.Array) -> jax.Array:
    """The 3 x 3 surroundings of each pixel, zeros outside: (n, height, width, channels) to (..., 9 channels)."""
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)
