"""Random warps of drawings, as another hand would have drawn them; each a pure function of its key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.foundation.typing import Key

# Standard deviations at strength 1. A character of one hand differs from that of another by about as much.
ROTATION, SHEAR, LOG_SCALE = 0.15, 0.15, 0.12  # radians; slope; of each axis
SHIFT, BEND = 0.04, 0.035  # parts of the side
KNOTS = 4  # along each axis, of the random field that bends


def warped(key: Key, images: jax.Array, strength: float) -> jax.Array:
    """Each of ``images`` (n, height, width) turned, sheared, scaled, moved and bent a little, by a map of its own.

        result(p) = image(c + A (p - c) + t + b(p))      c: the middle; A, t and the smooth field b: random

    Values between pixels are interpolated, and are 0 outside the image. Strength 0 changes nothing.

    >>> import jax, jax.numpy as jnp
    >>> image = jnp.eye(4)[None]
    >>> bool(jnp.all(warped(jax.random.key(0), image, 0.0) == image))
    True
    """
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda key, image: sampled(image, places(key, image.shape, strength)))(keys, images)


def places(key: Key, shape: tuple[int, ...], strength: float) -> jax.Array:
    """Where each pixel of a warped image (height, width) comes from: (2, height, width), rows and columns."""
    for_matrix, for_shift, for_field = jax.random.split(key, 3)
    turn, shear, *scales = strength * jnp.array([ROTATION, SHEAR, LOG_SCALE, LOG_SCALE]) * _normal(for_matrix, (4,))
    side = jnp.array(shape)[:, None, None]
    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(size) for size in shape), indexing="ij"))
    middle = (side - 1) / 2
    rotation = jnp.array([[jnp.cos(turn), -jnp.sin(turn)], [jnp.sin(turn), jnp.cos(turn)]])
    linear = rotation @ jnp.array([[1.0, 0.0], [shear, 1.0]]) @ jnp.diag(jnp.exp(jnp.array(scales)))
    shift = strength * SHIFT * side * _normal(for_shift, (2, 1, 1))
    field = strength * BEND * side * _normal(for_field, (2, KNOTS, KNOTS))
    return middle + jnp.einsum("ij,jhw->ihw", linear, grid - middle) + shift + _smooth(field, shape)


def sampled(image: jax.Array, where: jax.Array) -> jax.Array:
    """The values of an image at places (2, ...) between its pixels."""
    return jax.scipy.ndimage.map_coordinates(image, list(where), order=1, mode="constant")


def _smooth(field: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(field, (len(field), *shape), "cubic")


def _normal(key: Key, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape)
