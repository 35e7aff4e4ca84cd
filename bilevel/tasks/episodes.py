"""Few-shot episodes from images that are grouped by class."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.foundation.typing import Key


class Shape(NamedTuple):
    """``way`` classes with ``shots`` support and ``queries`` query images each."""

    way: int
    shots: int
    queries: int


class Episode(NamedTuple):
    """Images in the order of their classes: (way * shots, height, width) and (way * queries, height, width)."""

    support: jax.Array
    query: jax.Array


def by_class(found: data_sets.DataSet, pool: int) -> np.ndarray:
    """The images as (classes, images of each, height, width), as many of each as the rarest class has, averaged over
    squares of ``pool`` pixels."""
    height, width = found.image_shape or (1, found.inputs.shape[1])
    if height % pool or width % pool:
        raise ValueError(f"task.pool={pool} does not divide images of {height} x {width}: use pool=1.")
    order = np.argsort(found.targets, kind="stable")
    images = np.asarray(found.inputs, np.float32)[order].reshape(-1, height // pool, pool, width // pool, pool)
    images = images.mean(axis=(2, 4))
    counts = np.bincount(np.asarray(found.targets, int), minlength=found.classes)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.stack([images[first : first + counts.min()] for first in firsts])


def split_classes(images: np.ndarray, held_out: int, shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(images of the classes to learn from, images of ``held_out`` other classes); ValueError where an episode of this
    shape cannot be drawn from either."""
    classes, each = images.shape[:2]
    if shape.way > min(held_out, classes - held_out):
        raise ValueError(
            f"Episodes of task.way={shape.way} classes need as many in both parts, and {classes} classes are split "
            f"into {classes - held_out} and {held_out}: lower way, or choose another task.held_out."
        )
    if shape.shots + shape.queries > each:
        raise ValueError(
            f"task.shots={shape.shots} and task.queries={shape.queries} need {shape.shots + shape.queries} images of a "
            f"class, and there are {each}: lower one of them."
        )
    order = np.random.default_rng(seed).permutation(classes)
    return images[order[held_out:]], images[order[:held_out]]


def with_rotations(images: np.ndarray) -> np.ndarray:
    """Each class four times, turned by 0, 90, 180 and 270 degrees: four classes. Source: Santoro et al., 2016."""
    return np.concatenate([np.rot90(images, turns, axes=(2, 3)) for turns in range(4)])


def drawn_episode(key: Key, images: jax.Array, shape: Shape) -> Episode:
    """An episode of random classes and images; a pure function of the key."""
    for_classes, for_images = jax.random.split(key)
    classes = jax.random.choice(for_classes, len(images), (shape.way,), replace=False)
    number = shape.shots + shape.queries
    shuffled = lambda key: jax.random.permutation(key, images.shape[1])[:number]
    places = jax.vmap(shuffled)(jax.random.split(for_images, shape.way))
    picked = images[classes[:, None], places]
    flat = lambda part: part.reshape(-1, *images.shape[2:])
    return Episode(flat(picked[:, : shape.shots]), flat(picked[:, shape.shots :]))


def labels(way: int, each: int) -> jax.Array:
    """The classes of images in the order of an episode."""
    return jnp.repeat(jnp.arange(way), each)
