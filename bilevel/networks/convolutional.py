"""A small convolutional network, whose last layer is its features."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen

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
