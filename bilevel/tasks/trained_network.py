"""A network trained from scratch on given images: the judge of learned images, and a source of features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.foundation.progress import followed
from bilevel.foundation.typing import Key, PyTree, Scalar

NETWORKS = ("connected", "convolutional")
CHANNELS = (16, 32)  # of the convolutional network, which takes seconds to train on two cores
BATCH = 100  # images of a step, or all where there are fewer


class Recipe(NamedTuple):
    """How a network is trained: the kind of network, steps of Adam with a cosine schedule, its first step size."""

    network: str = "connected"
    steps: int = 400
    rate: float = 1e-3
    seeds: int = 5


class Images(NamedTuple):
    """Images (n, height, width) and what the network should say of them (n, classes)."""

    inputs: Any
    targets: Any


def classifier(kind: str, classes: int) -> Any:
    """A flax module whose ``apply`` gives outputs (n, classes). ValueError for a kind that is not in `NETWORKS`."""
    from bilevel.networks.classifier import Classifier, Connected  # flax loads when a network is asked for
    from bilevel.networks.convolutional import Convolutional

    if kind not in NETWORKS:
        raise ValueError(f"task.network={kind}: choose one of {', '.join(NETWORKS)}.")
    return Classifier(Connected() if kind == "connected" else Convolutional(CHANNELS), classes)


def squared_error(outputs: jax.Array, targets: jax.Array) -> Scalar:
    """Half the squared distance, the mean over samples."""
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=1))


def soft_cross_entropy(outputs: jax.Array, targets: jax.Array) -> Scalar:
    """The cross-entropy of logits and probabilities, the mean over samples."""
    return jnp.mean(optax.softmax_cross_entropy(outputs, targets))


def train(kind: str, images: Images, loss: Callable[..., Scalar], recipe: Recipe, key: Key) -> PyTree:
    """The weights of a `classifier` after ``recipe.steps`` steps on random minibatches, from a random start.

    The loop is Python's, because XLA gives convolutions inside a compiled loop slow code and one thread of a CPU.
    """
    for_start, for_batches = jax.random.split(key)
    given = Images(*(jnp.asarray(part, jnp.float32) for part in images))
    weights = classifier(kind, given.targets.shape[1]).init(for_start, given.inputs[:1])
    state = weights, _optimizer(recipe).init(weights)
    for step in range(recipe.steps):
        state = _turn(kind, loss, recipe._replace(seeds=1), state, given, jax.random.fold_in(for_batches, step))
    return state[0]


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(recipe.rate, recipe.steps))


@partial(jax.jit, static_argnums=(0, 1, 2))  # equal recipes and shapes compile once, in all baselines of a run
def _turn(kind: str, loss: Callable[..., Scalar], recipe: Recipe, state: Any, images: Images, key: Key) -> Any:
    """One step on ``BATCH`` random images, or on all where there are no more."""
    (weights, memory), (inputs, targets) = state, images
    if len(inputs) > BATCH:
        index = jax.random.randint(key, (BATCH,), 0, len(inputs))
        inputs, targets = inputs[index], targets[index]
    network = classifier(kind, targets.shape[1])
    slope = jax.grad(lambda weights: loss(network.apply(weights, inputs), targets))(weights)
    updates, memory = _optimizer(recipe).update(slope, memory)
    return optax.apply_updates(weights, updates), memory


def accuracies(
    images: Images, test: tuple[Any, Any], recipe: Recipe, loss: Callable[..., Scalar] = squared_error
) -> np.ndarray:
    """The test accuracies (seeds,) of networks trained on the images alone, each from a start of its own.

    ``test``: images (n, height, width) and labels (n,). Computed in float32, whatever the precision of the task.

    >>> pictures = np.stack([np.zeros((2, 2)), np.ones((2, 2))] * 4)
    >>> found = accuracies(Images(pictures, np.eye(2)[[0, 1] * 4]), (pictures, np.array([0, 1] * 4)), Recipe(seeds=2))
    >>> found.tolist()
    [1.0, 1.0]
    """
    pictures, labels = jnp.asarray(test[0], jnp.float32), jnp.asarray(test[1])
    keys = [jax.random.key(seed) for seed in range(recipe.seeds)]
    trained = [train(recipe.network, images, loss, recipe, key) for key in followed(keys, "networks")]
    classes = images.targets.shape[1]
    return np.asarray([_accuracy(recipe.network, classes, weights, pictures, labels) for weights in trained])


@partial(jax.jit, static_argnums=(0, 1))
def _accuracy(kind: str, classes: int, weights: PyTree, pictures: jax.Array, labels: jax.Array) -> jax.Array:
    outputs = classifier(kind, classes).apply(weights, pictures)
    return jnp.mean(jnp.argmax(outputs, axis=1) == labels)
