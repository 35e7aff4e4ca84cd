"""A small convolutional network, whose last layer is its features."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen


class Convolutional(linen.Module):
    """Blocks of a 3 x 3 convolution, group normalisation, a rectifier and pooling by 2, down to features (n, d).

    Group normalisation and not BatchNorm, because the features of an image then depend on that image alone: an episode
    of few images is no batch, and a query tells nothing about another query.
    """

    channels: Sequence[int] = (32, 64, 64)
    groups: int = 8

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images[..., None]
        for width in self.channels:
            x = linen.relu(linen.GroupNorm(num_groups=min(self.groups, width))(linen.Conv(width, (3, 3))(x)))
            x = linen.max_pool(x, (2, 2), (2, 2)) if min(x.shape[1:3]) > 1 else x
        flat = x.reshape(len(x), -1)
        return flat / jnp.sqrt(flat.shape[1])
