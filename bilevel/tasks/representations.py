"""What a kernel reads of an image: its pixels, or the features of a convolutional network that stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.data import DataSet
from bilevel.tasks import trained_network
from bilevel.tasks.trained_network import Images, Recipe

FEATURES = ("pixels", "random", "trained")
BLOCK = 1000  # images that are represented at once
Represent = Callable[[jax.Array], jax.Array]  # images (n, pixels) -> (n, features)


def representation(kind: str, real: DataSet, steps: int, seed: int) -> Represent:
    """Pixels, or the features of a convolutional network with random weights, or trained for ``steps`` steps on the
    real images; less their mean over the real images, and divided by one number, so that they have mean square 1.

    Raises ValueError for a kind that is not in `FEATURES`.
    """
    if kind not in FEATURES:
        raise ValueError(f"task.features={kind}: choose one of {', '.join(FEATURES)}.")
    raw: Represent = (lambda images: images) if kind == "pixels" else _network_features(kind, real, steps, seed)
    found = in_blocks(raw, real.inputs)
    mean, size = found.mean(axis=0), np.sqrt(np.mean((found - found.mean(axis=0)) ** 2))
    return lambda images: (raw(images) - jnp.asarray(mean, images.dtype)) / size


def in_blocks(represent: Represent, images: np.ndarray) -> np.ndarray:
    """The representation of many images, some at a time."""
    compiled = jax.jit(represent)
    blocks = [images[first : first + BLOCK] for first in range(0, len(images), BLOCK)]
    return np.concatenate([np.asarray(compiled(jnp.asarray(block))) for block in blocks])


def pictures(data: DataSet, inputs: Any) -> Any:
    """Rows of pixels as (n, height, width)."""
    return inputs.reshape(-1, *(data.image_shape or (1, data.inputs.shape[1])))


def _network_features(kind: str, real: DataSet, steps: int, seed: int) -> Represent:
    network = trained_network.classifier("convolutional", real.classes)
    images = Images(pictures(real, real.inputs), np.eye(real.classes)[real.targets])
    key = jax.random.key(seed)
    if kind == "random":
        weights = network.init(key, jnp.asarray(images.inputs[:1], jnp.float32))
    else:
        loss, recipe = trained_network.soft_cross_entropy, Recipe(steps=steps)
        weights = trained_network.train("convolutional", images, loss, recipe, key)
    return lambda rows: network.apply(
        jax.tree.map(lambda leaf: leaf.astype(rows.dtype), weights), pictures(real, rows), method="features"
    )
