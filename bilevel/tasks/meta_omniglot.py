"""Few-shot classification of handwritten characters: features by a network, a ridge regression for each episode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import data as data_sets
from bilevel.foundation.typing import Batch, HParams, Key, Params, PyTree, Scalar
from bilevel.losses.measured import Measured
from bilevel.problem import InnerProblem
from bilevel.solvers import Newton
from bilevel.task import Headline, Task
from bilevel.tasks import episodes, pictures
from bilevel.tasks.episodes import Episode, Shape
from bilevel.tasks.perceptrons import first_weights

Guess = Callable[[HParams, Episode], jax.Array]  # (hyperparameters, an episode) -> the classes of its queries
HAUSDORFF = 0.388  # error of the modified Hausdorff distance on the 20 one-shot runs. Source: Lake et al., 2015


def meta_omniglot(
    *,
    data: str = "omniglot",
    root: str = "",
    way: int = 5,
    shots: int = 1,
    queries: int = 5,
    lanes: int = 8,
    held_out: int = 60,
    rotations: bool = True,
    pool: int = 2,
    test_episodes: int = 600,
    runs: bool = False,
    seed: int = 0,
    precision: str = "float32",
) -> Task:
    """Learns features in which a ridge regression on ``shots`` images of ``way`` new classes classifies their other
    images.

        inner:  sum_t 1/2 tr a_t' (S_t S_t' + exp(p) I) a_t - tr a_t' Y      S_t: features of the support of episode t
        outer:  mean cross entropy of exp(c) Q_t S_t' a_t                    Q_t: features of its ``queries``

    The hyperparameters are the network, the log penalty p and the log scale c of the logits. Each step draws ``lanes``
    new episodes, a lane of dual weights a_t each; Y are centred indicators of the classes. ``engine=closed_form``
    factors all lanes together. ``held_out`` classes are never trained on. ``rotations`` makes four classes of each
    training class. ``pool`` averages squares of so many pixels.

    Once, at the end: test_accuracy over ``test_episodes`` episodes of held-out classes and test_accuracy_ci95 (half the
    95 % interval of the mean). Baselines on the same episodes: an untrained network, and the class of the nearest
    support image, by pixels. ``runs``: also runs_error, on the 20 published one-shot runs (20 characters of one
    alphabet each, of alphabets that are in no training set), beside runs_error_hausdorff.

    Source: Bertinetto et al., Meta-learning with differentiable closed-form solvers, 2019; Lake et al., 2015.
    """
    shape = Shape(way, shots, queries)
    _refuse(shape, lanes, test_episodes)
    images = episodes.by_class(data_sets.classification(data, root), pool)
    learned, unseen = episodes.split_classes(images, held_out, shape, seed)
    learned = episodes.with_rotations(learned) if rotations else learned
    published = one_shot_runs(root, pool) if runs else None
    network = _network()
    features = lambda hparams, images: network.apply({"params": hparams["network"]}, images)
    learned_episode = lambda key: episodes.drawn_episode(key, jnp.asarray(learned), shape)
    unseen_episode = lambda key: episodes.drawn_episode(key, jnp.asarray(unseen), shape)

    def batches(key: Key, step: int | jax.Array) -> tuple[Batch, Batch]:
        drawn = jax.vmap(learned_episode)(jax.random.split(jax.random.fold_in(key, step), lanes))
        return drawn.support, drawn

    def init_hparams(key: Key) -> HParams:
        zero = jnp.zeros((), jnp.result_type(float))
        weights = first_weights(network, key, learned.shape[2:])["params"]
        return {"network": weights, "log_penalty": zero - 2.0, "log_scale": zero + 1.5}

    def tested(guess: Guess, hparams: HParams) -> np.ndarray:
        """The accuracy in each test episode."""
        keys = jax.random.split(jax.random.key(seed + 1), test_episodes)
        return np.asarray(jax.jit(partial(accuracies, guess, shape, unseen_episode))(hparams, keys))

    def assess(params: Params, hparams: HParams) -> dict[str, Any]:
        found = tested(partial(guesses, features, shape), hparams)
        figures = {"test_accuracy": found.mean(), "test_accuracy_ci95": 1.96 * found.std() / np.sqrt(test_episodes)}
        return figures if published is None else {**figures, **errors_on_runs(features, hparams, published)}

    def baselines() -> dict[str, float]:
        untrained = tested(partial(guesses, features, shape), init_hparams(jax.random.key(seed)))
        by_pixels = tested(partial(nearest, shape), ())
        return {"baseline/untrained": float(untrained.mean()), "baseline/nearest_image": float(by_pixels.mean())}

    against = {"baseline/untrained": "with untrained features", "baseline/nearest_image": "by the nearest image"}
    counted = Headline("test_accuracy", f"accuracy on new characters, {way}-way {shots}-shot,", against)
    if runs:
        against = {"runs_error_hausdorff": "of the modified Hausdorff distance, as published"}
        counted = Headline("runs_error", "error on the 20 published one-shot runs", against)
    return Task(
        inner=InnerProblem(
            loss=partial(ridge_loss, features, shape),
            init=lambda key, hparams: jnp.zeros((lanes, way * shots, way), jnp.result_type(float)),
            solver=Newton(tol=1e-4),
        ),
        outer_loss=Measured(partial(query_loss, features, shape)),
        init_hparams=init_hparams,
        batches=batches,
        assess=assess,
        baselines=baselines,
        headline=counted,
        figures={"nearest": lambda run: drawing(features, run.hparams, unseen_episode(jax.random.key(seed)), shape)},
        warm_start=False,
        precision=precision,
        name="meta_omniglot",
    )


def targets(shape: Shape) -> jax.Array:
    """Indicators of the classes of the support images less their mean."""
    return jnp.repeat(jnp.eye(shape.way), shape.shots, axis=0) - 1 / shape.way


def ridge_loss(features: Any, shape: Shape, params: Params, hparams: HParams, support: jax.Array) -> Scalar:
    """The duals of the ridge regressions of all lanes."""
    lanes = len(support)
    own = features(hparams, support.reshape(-1, *support.shape[2:])).reshape(lanes, shape.way * shape.shots, -1)
    primal = jnp.einsum("lnd,lnw->ldw", own, params)
    size = jnp.sum(primal**2) + jnp.exp(hparams["log_penalty"]) * jnp.sum(params**2)
    return 0.5 * size - jnp.sum(params * targets(shape))


def query_loss(
    features: Any, shape: Shape, params: Params, hparams: HParams, drawn: Episode
) -> tuple[Scalar, dict[str, Any]]:
    """The cross entropy of the queries of all lanes, and their accuracy."""
    flat = lambda images: images.reshape(-1, *images.shape[2:])
    lanes, supports = len(drawn.support), shape.way * shape.shots
    both = features(hparams, jnp.concatenate([flat(drawn.support), flat(drawn.query)]))
    support = both[: lanes * supports].reshape(lanes, supports, -1)
    query = both[lanes * supports :].reshape(lanes, shape.way * shape.queries, -1)
    logits = jnp.exp(hparams["log_scale"]) * jnp.einsum("lqd,lnd,lnw->lqw", query, support, params)
    known = episodes.labels(shape.way, shape.queries)[None]
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(known, logits.shape[:2])))
    return loss, {"accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == known)}


def accuracies(guess: Guess, shape: Shape, draw: Any, hparams: HParams, sources: PyTree) -> jax.Array:
    """The accuracy of a classifier in each episode ``draw(source)``, one after the other."""

    def one(source: PyTree) -> jax.Array:
        return jnp.mean(guess(hparams, draw(source)) == episodes.labels(shape.way, shape.queries))

    return jax.lax.map(one, sources)


def errors_on_runs(features: Any, hparams: HParams, runs: Episode) -> dict[str, Any]:
    """The mean error on the 20 published one-shot runs, beside the published error of a baseline."""
    shape = Shape(20, 1, 1)
    guess = partial(guesses, features, shape)
    right = jax.jit(partial(accuracies, guess, shape, lambda run: run))(hparams, runs)
    return {"runs_error": 1 - np.mean(right), "runs_error_hausdorff": HAUSDORFF}


def guesses(features: Any, shape: Shape, hparams: HParams, drawn: Episode) -> jax.Array:
    """The classes of the queries of one episode, by the solution in closed form."""
    support, query = features(hparams, drawn.support), features(hparams, drawn.query)
    gram = support @ support.T + jnp.exp(hparams["log_penalty"]) * jnp.eye(len(support))
    return jnp.argmax(query @ support.T @ jnp.linalg.solve(gram, targets(shape)), axis=1)


def nearest(shape: Shape, hparams: HParams, drawn: Episode) -> jax.Array:
    """The class of the support image with the least squared distance to each query, pixel by pixel."""
    support, query = (images.reshape(len(images), -1) for images in drawn)
    distances = jnp.sum((query[:, None] - support[None]) ** 2, axis=-1)
    return jnp.argmin(distances, axis=1) // shape.shots


def one_shot_runs(root: str, pool: int) -> Episode:
    """The 20 published runs as episodes of 20 classes: leaves (run, drawing, height, width), in the order of the
    characters."""
    found = data_sets.classification("omniglot_runs", root)
    images = episodes.by_class(found, pool)  # (400 characters, training and test drawing, height, width)
    runs = jnp.asarray(images.reshape(20, 20, *images.shape[1:]))
    return Episode(runs[:, :, 0], runs[:, :, 1])


def drawing(features: Any, hparams: HParams, drawn: Episode, shape: Shape) -> Any:
    """The queries of one held-out episode, each after an image of the class that it is taken for."""
    chosen = np.asarray(guesses(features, shape, jax.tree.map(jnp.asarray, hparams), drawn))
    known = np.asarray(episodes.labels(shape.way, shape.queries))
    images, titles, colors = [], [], []
    for query, guess, truth in zip(np.asarray(drawn.query), chosen, known, strict=True):
        images += [np.asarray(drawn.support)[guess * shape.shots], query]
        titles += ["support", "right" if guess == truth else "wrong"]
        colors += ["black", "#0072b2" if guess == truth else "#d55e00"]
    return pictures.gallery(np.stack(images), titles, 2 * shape.queries, "queries after their nearest class", colors)


def _network() -> Any:
    from bilevel.networks.convolutional import Convolutional  # flax loads when the task is asked for

    return Convolutional()


def _refuse(shape: Shape, lanes: int, test_episodes: int) -> None:
    if shape.way < 2 or min(shape.shots, shape.queries, lanes) < 1 or test_episodes < 2:
        raise ValueError(
            f"meta_omniglot: way={shape.way} and test_episodes={test_episodes} must be at least 2, and shots="
            f"{shape.shots}, queries={shape.queries}, lanes={lanes} at least 1."
        )
