"""Few-shot classification of characters by implicit MAML: a convolutional network adapts to each episode."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import data as data_sets
from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, HParams, Key, Params, Scalar
from bilevel.losses.measured import Measured
from bilevel.problem import InnerProblem
from bilevel.solvers import LBFGS
from bilevel.task import Headline, Task
from bilevel.tasks import episodes
from bilevel.tasks.adaptation import Adaptation, refuse_words
from bilevel.tasks.episodes import Episode, Shape
from bilevel.tasks.few_shot_tests import accuracies, beside_their_classes, nearest
from bilevel.training.result import Result


def meta_omniglot_maml(
    *,
    data: str = "omniglot",
    root: str = "",
    way: int = 5,
    shots: int = 1,
    queries: int = 5,
    lanes: int = 8,
    channels: int = 32,
    depth: int = 3,
    proximity: float = 1.0,
    adapt: str = "all",
    rates: str = "layer",
    rate: float = 0.05,
    head_rate: float = 2.5,
    tol: float = 1e-3,
    held_out: int = 60,
    rotations: bool = True,
    pool: int = 2,
    test_episodes: int = 600,
    seed: int = 0,
    precision: str = "float32",
) -> Task:
    """Learns the weights from which a convolutional network adapts to ``shots`` images of each of ``way`` new classes.

        inner:  sum_t mean over the support of episode t of l(net(x; h + sqrt(r) v_t), y) + proximity/2 ||v_t||^2
        outer:  mean_t mean over its ``queries`` of l(net(x; h + sqrt(r) v_t), y)            l: cross entropy

    Implicit MAML: the inner problem is solved, to ``tol`` of its first residual, and ``engine=implicit`` differentiates
    the solution. The system of the adjoint is that of the problem, without damping of its own: a multiple of the
    identity that is large beside the curvature would leave a first-order method. Each step draws ``lanes`` new
    episodes; the unknowns v_t are a lane for each and start at 0. The hyperparameters are h and, with ``rates``
    "layer" or "each", the logarithm of a rate r for each array of weights or each weight: the distance in which the
    weights stay near. Rates are ``rate`` at first, and ``head_rate`` in the last layer. That is larger, because the
    problem is convex in the last layer. In the others its curvature is of both signs, and where they move far the
    problem has many solutions. ``adapt`` "head": only the last layer is unknown.

    The network has ``depth`` blocks of ``channels`` channels (`bilevel.networks.convolutional.SmoothConvolutional`).
    ``held_out`` classes are never trained on. ``rotations`` makes four classes of each training class. ``pool``
    averages squares of so many pixels.

    Once, at the end: test_accuracy over ``test_episodes`` episodes of held-out classes, each query classified by
    itself, test_accuracy_ci95 (half the 95 % interval of the mean), and test_converged, the share of test adaptations
    whose residual fell by ``tol``. Baselines on the same episodes: adaptation of an untrained network, and the class of
    the nearest support image, by pixels.

    Source: Rajeswaran et al., Meta-learning with implicit gradients, 2019; Lake et al., 2015.
    """
    shape = Shape(way, shots, queries)
    refuse_words(adapt, rates)
    _refuse(shape, lanes, test_episodes, channels, depth)
    if not all(number > 0 for number in (proximity, rate, head_rate, tol)):
        raise ValueError("meta_omniglot_maml: task.proximity, task.rate, task.head_rate and task.tol must be positive.")
    found = data_sets.classification(data, root)
    learned, unseen = episodes.split_classes(episodes.classes_of(found, pool), held_out, shape, seed)
    learned = episodes.with_rotations(learned) if rotations else learned
    adaptation = Adaptation(_network((channels,) * depth, way), adapt, rate, head_rate)
    draw = lambda classes: lambda key: episodes.drawn_episode(key, classes, shape)

    def loss(params: Params, hparams: HParams, support: Batch) -> Scalar:
        entropies = cross_entropies(adaptation.outputs(params, hparams, support), shots)
        return jnp.sum(jnp.mean(entropies, axis=1)) + 0.5 * proximity * trees.dot(params, params)

    def outer_loss(params: Params, hparams: HParams, drawn: Episode) -> tuple[Scalar, dict[str, Any]]:
        logits = adaptation.outputs(params, hparams, drawn.query)
        right = jnp.argmax(logits, axis=-1) == episodes.labels(way, queries)
        return jnp.mean(cross_entropies(logits, queries)), {"accuracy": jnp.mean(right)}

    def batches(key: Key, step: int | jax.Array) -> tuple[Batch, Batch]:
        drawn = jax.vmap(draw(learned))(jax.random.split(jax.random.fold_in(key, step), lanes))
        return drawn.support, drawn

    inner = InnerProblem(
        loss=loss,
        init=lambda key, hparams: adaptation.start(hparams, lanes),
        solver=LBFGS(max_steps=500, tol=tol),
    )

    @jax.jit  # once for the test, its baseline and the figure
    def adapted(hparams: HParams, keys: jax.Array) -> tuple[Episode, jax.Array, jax.Array]:
        """Test episodes, a lane for each key, the classes of their queries, and whether the adaptations converged."""
        drawn = jax.vmap(draw(unseen))(keys)
        solution = inner.solve(hparams, drawn.support)
        guesses = jnp.argmax(adaptation.outputs(solution.params, hparams, drawn.query), axis=-1)
        return drawn, guesses, solution.status.ok

    def test_keys() -> jax.Array:
        """The keys of the test episodes, and some more where they do not fill their last lanes."""
        return jax.random.split(jax.random.key(seed + 1), -(-test_episodes // lanes) * lanes)

    def tested(hparams: HParams) -> tuple[np.ndarray, float]:
        """The accuracy in each test episode, ``lanes`` of them at a time, and the share that converged."""
        hparams = jax.tree.map(jnp.asarray, hparams)
        rounds = [adapted(hparams, keys)[1:] for keys in test_keys().reshape(-1, lanes)]
        right = np.concatenate([guesses == episodes.labels(way, queries) for guesses, _ in rounds])
        return right.mean(axis=1)[:test_episodes], float(np.mean([converged for _, converged in rounds]))

    def assess(params: Params, hparams: HParams) -> dict[str, Any]:
        right, converged = tested(hparams)
        interval = 1.96 * right.std() / np.sqrt(test_episodes)
        return {"test_accuracy": right.mean(), "test_accuracy_ci95": interval, "test_converged": converged}

    def init_hparams(key: Key) -> HParams:
        return adaptation.first(key, rates, learned.images.shape[2:])

    def baselines() -> dict[str, float]:
        untrained = tested(init_hparams(jax.random.key(seed)))[0]
        guess = partial(nearest, shape)
        by_pixels = jax.jit(partial(accuracies, guess, shape, draw(unseen)))((), test_keys()[:test_episodes])
        return {"baseline/untrained": float(untrained.mean()), "baseline/nearest_image": float(jnp.mean(by_pixels))}

    def pictured(result: Result) -> Any:
        """The first test episode."""
        drawn, guesses, _ = adapted(jax.tree.map(jnp.asarray, result.hparams), test_keys()[:lanes])
        return beside_their_classes(Episode(*(part[0] for part in drawn)), np.asarray(guesses[0]), shape)

    return Task(
        inner=inner,
        outer_loss=Measured(outer_loss),
        init_hparams=init_hparams,
        batches=batches,
        assess=assess,
        baselines=baselines,
        headline=Headline(
            "test_accuracy",
            f"accuracy on new characters, {way}-way {shots}-shot,",
            {"baseline/untrained": "with an untrained network", "baseline/nearest_image": "by the nearest image"},
        ),
        figures={"queries": pictured},
        warm_start=False,
        precision=precision,
        name="meta_omniglot_maml",
    )


def cross_entropies(logits: jax.Array, each: int) -> jax.Array:
    """The cross entropy of each of the images (lanes, way * each), in the order of an episode, from their logits."""
    known = jnp.broadcast_to(episodes.labels(logits.shape[-1], each), logits.shape[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, known)


def _network(channels: tuple[int, ...], outputs: int) -> Any:
    from bilevel.networks.convolutional import SmoothConvolutional  # flax loads when the task is asked for

    return SmoothConvolutional(channels, outputs=outputs)


def _refuse(shape: Shape, lanes: int, test_episodes: int, channels: int, depth: int) -> None:
    if shape.way < 2 or min(shape.shots, shape.queries, lanes, channels, depth) < 1 or test_episodes < 2:
        raise ValueError(
            f"meta_omniglot_maml: way={shape.way} and test_episodes={test_episodes} must be at least 2, shots="
            f"{shape.shots}, queries={shape.queries}, lanes={lanes}, channels={channels} and depth={depth} at least 1."
        )
    if channels % 8 and channels > 8:
        raise ValueError(
            f"task.channels={channels}: the normalisation takes groups of an eighth of the channels, so choose a "
            "multiple of 8, or fewer than 8."
        )
