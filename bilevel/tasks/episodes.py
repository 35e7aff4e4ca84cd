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


class Classes(NamedTuple):
    """Images (classes, images of each, height, width) and the group of each class: its alphabet."""

    images: np.ndarray
    groups: np.ndarray


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


def classes_of(found: data_sets.DataSet, pool: int) -> Classes:
    """The classes of a data set, and the alphabet of each as a number; all 0 where the classes have no names
    ``alphabet/character``."""
    names = [name.split("/")[0] for name in found.features] if len(found.features) == found.classes else []
    groups = np.unique(names, return_inverse=True)[1] if names else np.zeros(found.classes, int)
    return Classes(by_class(found, pool), groups)


def split_classes(found: Classes, held_out: int, shape: Shape, seed: int) -> tuple[Classes, Classes]:
    """(the classes to learn from, ``held_out`` other classes); ValueError where an episode of this shape cannot be
    drawn from either."""
    classes, each = found.images.shape[:2]
    if shape.way > min(held_out, classes - held_out):
        raise ValueError(
            f"Episodes of task.way={shape.way} classes need as many in both parts, and {classes} classes are split "
            f"into {classes - held_out} and {held_out}: lower way, or choose another task.held_out."
        )
    refuse_few_images(shape, each)
    order = np.random.default_rng(seed).permutation(classes)
    part = lambda index: Classes(*(leaf[index] for leaf in found))
    return part(order[held_out:]), part(order[:held_out])


def split_alphabets(classes: Classes, held_out: int, shape: Shape, seed: int) -> tuple[Classes, Classes]:
    """`split_classes` by whole groups: as many of them are kept apart as have ``held_out`` classes together, of those
    that an episode can be drawn from within; none where that is 0."""
    numbers = np.bincount(classes.groups)
    if shape.way > numbers.max():
        raise ValueError(
            f"Episodes of task.way={shape.way} classes of one alphabet need one that has as many, and the largest has "
            f"{numbers.max()}: lower way, or choose task.protocol=mixed."
        )
    order = np.random.default_rng(seed).permutation(np.flatnonzero(numbers >= shape.way))
    apart = order[: int(np.searchsorted(np.cumsum(numbers[order]), held_out)) + 1] if held_out else order[:0]
    unseen = np.isin(classes.groups, apart)
    if (left := (~unseen).sum()) < shape.way:
        raise ValueError(
            f"task.held_out={held_out} holds out whole alphabets, which leaves {left} classes to learn from, "
            f"fewer than task.way={shape.way}: lower one of them, or choose task.protocol=mixed."
        )
    refuse_few_images(shape, classes.images.shape[1])
    return Classes(*(part[~unseen] for part in classes)), Classes(*(part[unseen] for part in classes))


def refuse_few_images(shape: Shape, each: int) -> None:
    """ValueError where an episode needs more images of a class than there are."""
    if shape.shots + shape.queries > each:
        raise ValueError(
            f"task.shots={shape.shots} and task.queries={shape.queries} need {shape.shots + shape.queries} images of a "
            f"class, and there are {each}: lower one of them."
        )


def with_rotations(classes: Classes) -> Classes:
    """Each class four times, turned by 0, 90, 180 and 270 degrees: four classes, and as many groups more. Source:
    Santoro et al., 2016."""
    turned = [np.rot90(classes.images, turns, axes=(2, 3)) for turns in range(4)]
    groups = [classes.groups + turns * (classes.groups.max() + 1) for turns in range(4)]
    return Classes(np.concatenate(turned), np.concatenate(groups))


def drawn_episode(key: Key, found: Classes, shape: Shape) -> Episode:
    """An episode of random classes and images; a pure function of the key."""
    images = jnp.asarray(found.images)
    for_classes, for_images = jax.random.split(key)
    classes = jax.random.choice(for_classes, len(images), (shape.way,), replace=False)
    number = shape.shots + shape.queries
    shuffled = lambda key: jax.random.permutation(key, images.shape[1])[:number]
    places = jax.vmap(shuffled)(jax.random.split(for_images, shape.way))
    picked = images[classes[:, None], places]
    flat = lambda part: part.reshape(-1, *images.shape[2:])
    return Episode(flat(picked[:, : shape.shots]), flat(picked[:, shape.shots :]))


def drawn_run(key: Key, found: Classes, shape: Shape) -> Episode:
    """An episode as the published one-shot runs are: random classes of one group, and the k-th image of each class by
    the k-th hand, so that the support of one shot is by one hand, and the queries by others. A group of fewer classes
    than ``way`` is filled up with classes of other groups; a pure function of the key."""
    images, groups = jnp.asarray(found.images), jnp.asarray(found.groups)
    for_group, for_classes, for_hands = jax.random.split(key, 3)
    group = groups[jax.random.randint(for_group, (), 0, len(groups))]
    ranks = jax.random.uniform(for_classes, (len(groups),)) + (groups == group)
    classes = jax.lax.top_k(ranks, shape.way)[1]
    hands = jax.random.permutation(for_hands, images.shape[1])[: shape.shots + shape.queries]
    picked = images[classes[:, None], hands]
    flat = lambda part: part.reshape(-1, *images.shape[2:])
    return Episode(flat(picked[:, : shape.shots]), flat(picked[:, shape.shots :]))


def labels(way: int, each: int) -> jax.Array:
    """The classes of images in the order of an episode."""
    return jnp.repeat(jnp.arange(way), each)
