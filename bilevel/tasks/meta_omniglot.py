"""Few-shot classification of handwritten characters: features by a network, a linear classifier for each episode."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import data as data_sets
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.losses.measured import Measured
from bilevel.task import Headline, Task
from bilevel.tasks import episodes
from bilevel.tasks.episodes import Episode, Shape
from bilevel.tasks.few_shot_tests import (
    RUN,
    Features,
    Guess,
    accuracies,
    averaged,
    drawing,
    errors_on_runs,
    guesses,
    nearest,
    one_shot_runs,
)
from bilevel.tasks.heads import HEADS, answers, by_lanes, grams, penalty
from bilevel.tasks.perceptrons import first_weights
from bilevel.tasks.warps import warped

NETWORKS: dict[str, dict[str, Any]] = {  # fields of `Convolutional`
    "small": {"channels": (32, 64, 64)},
    "wide": {"channels": (32, 64, 96, 128), "pooling": "mean", "smallest": 3, "unit": True},
}
PROTOCOLS = {  # how classes are split, and how an episode is drawn
    "mixed": (episodes.split_classes, episodes.drawn_episode),
    "runs": (episodes.split_alphabets, episodes.drawn_run),
}


def meta_omniglot(
    *,
    data: str = "omniglot",
    root: str = "",
    way: int = 5,
    shots: int = 1,
    queries: int = 5,
    lanes: int = 8,
    protocol: str = "mixed",
    head: str = "ridge",
    network: str = "small",
    held_out: int = 60,
    rotations: bool = True,
    warp: float = 0.0,
    copies: int = 0,
    pool: int = 2,
    test_episodes: int = 600,
    runs: bool = False,
    seed: int = 0,
    precision: str = "float32",
) -> Task:
    """Learns features in which a linear classifier, fitted to ``shots`` images of each of ``way`` new classes,
    classifies their other images.

        inner:  ridge  sum_t 1/2 tr a_t' (S_t S_t' + exp(p) I) a_t - tr a_t' Y      S_t: support features of episode t
                svm    sum_t exp(-p)/2 ||S_t' (Y - x_t)||^2 + <x_t, Y>, rows of x_t in the simplex
        outer:  mean cross entropy of exp(c) Q_t S_t' a_t                           Q_t: features of its ``queries``

    The hyperparameters are the network, the log penalty p and the log scale c of the logits. Each step draws ``lanes``
    new episodes, a lane of dual weights a_t each, and a_t = exp(-p) (Y - x_t) for ``head`` "svm". Y are indicators of
    the classes, centred for "ridge". ``engine=closed_form`` factors each lane of "ridge"; "svm" needs
    ``engine=implicit``.

    ``protocol`` "mixed": any classes, any images. "runs": episodes as the published one-shot runs, characters of one
    alphabet, the support of one hand and the queries of others. ``network`` "small": three blocks, whose activations
    are the features; "wide": four wider blocks, averaged down to 3 x 3, with features of unit length. ``held_out``
    classes are never trained on; with "runs" they are whole alphabets with so many together, and none for 0.
    ``rotations`` makes four classes of each training class, and of each alphabet four. ``warp`` above 0 draws each
    training image as another hand might have, so strongly (`bilevel.tasks.warps`). ``copies``: a test averages the
    features of an image and of so many warped ones. ``pool`` averages squares of so many pixels.

    Once, at the end: test_accuracy over ``test_episodes`` episodes of held-out classes and test_accuracy_ci95 (half the
    95 % interval of the mean). Baselines on the same episodes: an untrained network, and the class of the nearest
    support image, by pixels. ``runs``: also runs_error, on the 20 published one-shot runs (20 characters of one
    alphabet each, of alphabets that are in no training set), beside runs_error_hausdorff.

    Source: Bertinetto et al., Meta-learning with differentiable closed-form solvers, 2019; Lee et al., Meta-learning
    with differentiable convex optimization, 2019; Lake et al., 2015.
    """
    shape = Shape(way, shots, queries)
    _refuse(shape, lanes, test_episodes, copies, warp)
    if not (held_out or runs):
        raise ValueError("task.held_out=0 leaves no class to test on: choose task.runs=true, or hold some out.")
    _refuse_words(protocol=(protocol, PROTOCOLS), head=(head, HEADS), network=(network, NETWORKS))
    split, draw = PROTOCOLS[protocol]
    found = data_sets.classification(data, root)
    learned, unseen = split(episodes.classes_of(found, pool), held_out, shape, seed)
    learned = episodes.with_rotations(learned) if rotations else learned
    published = one_shot_runs(root, pool) if runs else None
    module = _network(network)
    features = lambda hparams, images: module.apply({"params": hparams["network"]}, images)
    tested_features = averaged(features, copies, warp)

    def learned_episode(key: Key) -> Episode:
        plain = draw(key, learned, shape)
        if not warp:
            return plain
        keys = jax.random.split(jax.random.fold_in(key, 1))
        return Episode(*(warped(key, part, warp) for key, part in zip(keys, plain, strict=True)))

    unseen_episode = lambda key: draw(key, unseen, shape)

    def batches(key: Key, step: int | jax.Array) -> tuple[Batch, Batch]:
        drawn = jax.vmap(learned_episode)(jax.random.split(jax.random.fold_in(key, step), lanes))
        return drawn.support, drawn

    def init_hparams(key: Key) -> HParams:
        zero = jnp.zeros((), jnp.result_type(float))
        weights = first_weights(module, key, learned.images.shape[2:])["params"]
        return {"network": weights, "log_penalty": zero - 2.0, "log_scale": zero + 1.5}

    def tested(guess: Guess, hparams: HParams) -> np.ndarray:
        """The accuracy in each test episode."""
        keys = jax.random.split(jax.random.key(seed + 1), test_episodes)
        return np.asarray(jax.jit(partial(accuracies, guess, shape, unseen_episode))(hparams, keys))

    def assess(params: Params, hparams: HParams) -> dict[str, Any]:
        figures = {} if published is None else errors_on_runs(tested_features, hparams, published, head)
        if not held_out:
            return figures
        found = tested(partial(guesses, tested_features, shape, head=head), hparams)
        interval = 1.96 * found.std() / np.sqrt(test_episodes)
        return {"test_accuracy": found.mean(), "test_accuracy_ci95": interval, **figures}

    def baselines() -> dict[str, float]:
        if not held_out:
            return {}
        untrained = tested(partial(guesses, features, shape, head=head), init_hparams(jax.random.key(seed)))
        by_pixels = tested(partial(nearest, shape), ())
        return {"baseline/untrained": float(untrained.mean()), "baseline/nearest_image": float(by_pixels.mean())}

    def pictured(run: Any) -> Any:
        if published is not None:
            return drawing(tested_features, run.hparams, Episode(*(part[0] for part in published)), RUN, head)
        return drawing(tested_features, run.hparams, unseen_episode(jax.random.key(seed)), shape, head)

    return Task(
        inner=HEADS[head].inner(partial(grams, features), penalty, answers(head, shape), lanes),
        outer_loss=Measured(partial(query_loss, features, shape, head)),
        init_hparams=init_hparams,
        batches=batches,
        assess=assess,
        baselines=baselines,
        headline=_headline(shape, runs),
        figures={"nearest": pictured},
        warm_start=False,
        precision=precision,
        name="meta_omniglot",
    )


def query_loss(
    features: Features, shape: Shape, head: str, params: Params, hparams: HParams, drawn: Episode
) -> tuple[Scalar, dict[str, Any]]:
    """The cross entropy of the queries of all lanes, and their accuracy."""
    support, query = (by_lanes(features, hparams, images) for images in drawn)
    dual = HEADS[head].weights(params, penalty(hparams), answers(head, shape))
    logits = jnp.exp(hparams["log_scale"]) * jnp.einsum("lqd,lnd,lnw->lqw", query, support, dual)
    known = episodes.labels(shape.way, shape.queries)[None]
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(known, logits.shape[:2])))
    return loss, {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == known)}


def _headline(shape: Shape, runs: bool) -> Headline:
    if runs:
        against = {"runs_error_hausdorff": "of the modified Hausdorff distance, as published"}
        return Headline("runs_error", "error on the 20 published one-shot runs", against)
    against = {"baseline/untrained": "with untrained features", "baseline/nearest_image": "by the nearest image"}
    return Headline("test_accuracy", f"accuracy on new characters, {shape.way}-way {shape.shots}-shot,", against)


def _network(name: str) -> Any:
    from bilevel.networks.convolutional import Convolutional  # flax loads when the task is asked for

    return Convolutional(**NETWORKS[name])


def _refuse(shape: Shape, lanes: int, test_episodes: int, copies: int, warp: float) -> None:
    if shape.way < 2 or min(shape.shots, shape.queries, lanes) < 1 or test_episodes < 2 or min(copies, warp) < 0:
        raise ValueError(
            f"meta_omniglot: way={shape.way} and test_episodes={test_episodes} must be at least 2, shots="
            f"{shape.shots}, queries={shape.queries}, lanes={lanes} at least 1, and copies={copies}, warp={warp} not "
            "negative."
        )


def _refuse_words(**settings: tuple[str, dict[str, Any]]) -> None:
    for name, (word, words) in settings.items():
        if word not in words:
            raise ValueError(f"task.{name}={word}: choose one of {', '.join(words)}.")
