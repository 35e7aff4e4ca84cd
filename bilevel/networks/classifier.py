"""Small classifiers of images: features, and a linear layer on top."""

from __future__ import annotations

import jax
from flax import linen


class Connected(linen.Module):
    """Features (n, width) of images (n, height, width): ``depth`` fully connected layers with rectifiers."""

    width: int = 256
    depth: int = 1

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1)
        for _ in range(self.depth):
            x = linen.relu(linen.Dense(self.width)(x))
        return x


class Classifier(linen.Module):
    """Outputs (n, classes): a linear layer on the features of ``body``."""

    body: linen.Module
    classes: int

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return linen.Dense(self.classes)(self.features(images))

    def features(self, images: jax.Array) -> jax.Array:
        """What the linear layer reads."""
        return self.body(images)  # pyright: ignore[reportCallIssue]  # linen.Module declares no __call__
