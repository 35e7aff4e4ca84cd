"""A network trained from scratch on given images: the judge of learned images, and a source of features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def train(network: Any, images: Images, loss: Callable[..., Scalar], recipe: Recipe, key: Key) -> PyTree:
    """The weights after ``recipe.steps`` steps on random minibatches of the images, from a random start."""
    for_start, for_batches = jax.random.split(key)
    inputs, targets = (jnp.asarray(part, jnp.float32) for part in images)
    optimizer = optax.adam(optax.cosine_decay_schedule(recipe.rate, recipe.steps))
    weights = network.init(for_start, inputs[:1])
    size = min(BATCH, len(inputs))

    def turn(step: jax.Array, state: tuple) -> tuple:
        weights, memory = state
        index = jax.random.randint(jax.random.fold_in(for_batches, step), (size,), 0, len(inputs))
        picked = (inputs[index], targets[index]) if size < len(inputs) else (inputs, targets)
        slope = jax.grad(lambda weights: loss(network.apply(weights, picked[0]), picked[1]))(weights)
        updates, memory = optimizer.update(slope, memory)
        return optax.apply_updates(weights, updates), memory

    return jax.lax.fori_loop(0, recipe.steps, turn, (weights, optimizer.init(weights)))[0]


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
    given = Images(*(jnp.asarray(part, jnp.float32) for part in images))
    pictures, labels = jnp.asarray(test[0], jnp.float32), jnp.asarray(test[1])
    keys = [jax.random.key(seed) for seed in range(recipe.seeds)]
    return np.asarray([_accuracy(recipe._replace(seeds=1), loss, key, given, (pictures, labels)) for key in keys])


@partial(jax.jit, static_argnums=(0, 1))  # so that equal recipes and shapes compile once, in all baselines of a run
def _accuracy(
    recipe: Recipe, loss: Callable[..., Scalar], key: Key, images: Images, test: tuple[Any, Any]
) -> jax.Array:
    network = classifier(recipe.network, images.targets.shape[1])
    outputs = network.apply(train(network, images, loss, recipe, key), test[0])
    return jnp.mean(jnp.argmax(outputs, axis=1) == test[1])
