"""Where learned images start, and the simple sets of images that they are compared with."""

from __future__ import annotations

import numpy as np

from bilevel.data import DataError, DataSet

STARTS = ("real", "means", "noise")
ROUNDS = 20  # of Lloyd's algorithm
NOISE = 0.1  # the standard deviation of images that start as noise, beside pixels between 0 and 1


def random_images(real: DataSet, each: int, seed: int) -> np.ndarray:
    """``each`` random images of every class, in the order of the classes: (classes * each, pixels).

    Raises `DataError` where a class has fewer images.
    """
    random = np.random.default_rng(seed)
    return np.concatenate([images[random.permutation(len(images))[:each]] for images in by_class(real, each)])


def mean_images(real: DataSet, each: int, seed: int) -> np.ndarray:
    """The mean of every class, or the centres of ``each`` clusters of it by Lloyd's algorithm from random images.

    >>> real = DataSet(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]), 2)
    >>> mean_images(real, 1, 0).tolist()
    [[1.0], [5.0]]
    """
    starts = random_images(real, each, seed).reshape(real.classes, each, -1)
    groups = by_class(real, each)
    return np.concatenate([_centres(images, start) for images, start in zip(groups, starts, strict=True)])


def starting_images(kind: str, real: DataSet, each: int, seed: int) -> np.ndarray:
    """The images at the start. Raises ValueError for a kind that is not in `STARTS`, and what `random_images`
    raises."""
    if kind not in STARTS:
        raise ValueError(f"task.start={kind}: choose one of {', '.join(STARTS)}.")
    if kind == "noise":
        shape = (real.classes * each, real.inputs.shape[1])
        return NOISE * np.random.default_rng(seed).standard_normal(shape)
    return random_images(real, each, seed) if kind == "real" else mean_images(real, each, seed)


def by_class(real: DataSet, each: int) -> list[np.ndarray]:
    """The images of every class. Raises `DataError` where one has fewer than ``each``."""
    groups = [real.inputs[real.targets == label] for label in range(real.classes)]
    fewest = min(map(len, groups))
    if fewest < each:
        raise DataError(
            f"task.images_per_class={each} needs as many real images of each class, and class "
            f"{[len(group) for group in groups].index(fewest)} has {fewest} among {len(real.targets)} training images: "
            "lower it, or raise train."
        )
    return groups


def _centres(images: np.ndarray, centres: np.ndarray) -> np.ndarray:
    for _ in range(ROUNDS):
        distances = np.sum(centres**2, axis=1) - 2 * images @ centres.T
        nearest = np.argmin(distances, axis=1)
        moved = [
            images[nearest == at].mean(axis=0) if np.any(nearest == at) else centre for at, centre in enumerate(centres)
        ]
        centres = np.stack(moved)
    return centres
