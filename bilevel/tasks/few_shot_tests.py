"""Tests of features on episodes that no training has seen: accuracies, the published one-shot runs, a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import data as data_sets
from bilevel.foundation.typing import HParams, PyTree
from bilevel.tasks import episodes, pictures
from bilevel.tasks.episodes import Episode, Shape
from bilevel.tasks.heads import HEADS, answers, penalty
from bilevel.tasks.warps import warped

Guess = Callable[[HParams, Episode], jax.Array]  # (hyperparameters, an episode) -> the classes of its queries
Features = Callable[[HParams, jax.Array], jax.Array]  # (hyperparameters, images) -> (n, features)
HAUSDORFF = 0.388  # error of the modified Hausdorff distance on the 20 one-shot runs. Source: Lake et al., 2015
RUN = Shape(20, 1, 1)
WIDTH = 10  # images in a row of the picture


def accuracies(guess: Guess, shape: Shape, draw: Any, hparams: HParams, sources: PyTree) -> jax.Array:
    """The accuracy of a classifier in each episode ``draw(source)``, one after the other."""

    def one(source: PyTree) -> jax.Array:
        return jnp.mean(guess(hparams, draw(source)) == episodes.labels(shape.way, shape.queries))

    return jax.lax.map(one, sources)


def guesses(features: Features, shape: Shape, hparams: HParams, drawn: Episode, head: str = "ridge") -> jax.Array:
    """The classes of the queries of one episode, each by itself, by the head of that name."""
    support, query = features(hparams, drawn.support), features(hparams, drawn.query)
    dual = HEADS[head].solve(support @ support.T, penalty(hparams), answers(head, shape))
    return jnp.argmax(query @ support.T @ dual, axis=1)


def nearest(shape: Shape, hparams: HParams, drawn: Episode) -> jax.Array:
    """The class of the support image with the least squared distance to each query, pixel by pixel."""
    support, query = (images.reshape(len(images), -1) for images in drawn)
    distances = jnp.sum((query[:, None] - support[None]) ** 2, axis=-1)
    return jnp.argmin(distances, axis=1) // shape.shots


def averaged(features: Features, copies: int, strength: float) -> Features:
    """The mean of the features of an image and of ``copies`` warped ones, as long as those of the image itself. The
    warps are the same for every set of images; without copies these are the features themselves."""
    if not copies:
        return features

    def mean(hparams: HParams, images: jax.Array) -> jax.Array:
        own = features(hparams, images)
        others = [features(hparams, warped(jax.random.key(copy), images, strength)) for copy in range(copies)]
        total = own + sum(others)
        size = lambda rows: jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True))
        return total * size(own) / jnp.maximum(size(total), jnp.finfo(own.dtype).tiny)

    return mean


def one_shot_runs(root: str, pool: int) -> Episode:
    """The 20 published runs as episodes of 20 classes: leaves (run, drawing, height, width), in the order of the
    characters."""
    found = data_sets.classification("omniglot_runs", root)
    images = episodes.by_class(found, pool)  # (400 characters, training and test drawing, height, width)
    runs = jnp.asarray(images.reshape(20, 20, *images.shape[1:]))
    return Episode(runs[:, :, 0], runs[:, :, 1])


def errors_on_runs(features: Features, hparams: HParams, runs: Episode, head: str = "ridge") -> dict[str, Any]:
    """The mean error on the 20 published one-shot runs, beside the published error of a baseline."""
    guess = partial(guesses, features, RUN, head=head)
    right = jax.jit(partial(accuracies, guess, RUN, lambda run: run))(hparams, runs)
    return {"runs_error": 1 - np.mean(right), "runs_error_hausdorff": HAUSDORFF}


def drawing(features: Features, hparams: HParams, drawn: Episode, shape: Shape, head: str = "ridge") -> Any:
    """The queries of one episode, each after an image of the class that it is taken for."""
    chosen = np.asarray(guesses(features, shape, jax.tree.map(jnp.asarray, hparams), drawn, head))
    return beside_their_classes(drawn, chosen, shape)


def beside_their_classes(drawn: Episode, chosen: np.ndarray, shape: Shape) -> Any:
    """The queries of one episode, each after an image of its class in ``chosen``."""
    known = np.asarray(episodes.labels(shape.way, shape.queries))
    images, titles, colors = [], [], []
    for query, guess, truth in zip(np.asarray(drawn.query), chosen, known, strict=True):
        images += [np.asarray(drawn.support)[guess * shape.shots], query]
        titles += ["support", "right" if guess == truth else "wrong"]
        colors += ["black", "#0072b2" if guess == truth else "#d55e00"]
    columns = max(2 * shape.queries, WIDTH)
    return pictures.gallery(np.stack(images), titles, columns, "queries after their nearest class", colors)
