"""What learned images are compared with: random real images, means of classes, and all real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.data import DataSet
from bilevel.foundation.progress import followed
from bilevel.tasks import learned_images, softmax
from bilevel.tasks.grids import lowest
from bilevel.tasks.kernel_learner import Learner
from bilevel.tasks.representations import in_blocks, pictures
from bilevel.tasks.trained_network import Images, Recipe, accuracies

PENALTIES = tuple(10.0**power for power in range(-6, 0))  # the grid of ridge
SOFTMAX_PENALTIES = tuple(10.0**power for power in range(-5, 0))
FEWER = 2000  # real images that choose the penalty of the fit to all, because a fit costs the cube of their number
Samples = tuple[np.ndarray, np.ndarray]  # represented images (n, features), labels (n,)


@dataclass(frozen=True)
class Parts:
    """The real images: as data, and as the kernel reads them."""

    real: DataSet
    fitted: Samples
    chosen_on: Samples
    test: Samples
    test_images: Any  # (n, height, width)


class Scores(NamedTuple):
    """What a learner does on the test set."""

    accuracy: float
    loss: float


def compared(learner: Learner, parts: Parts, each: int, recipe: Recipe) -> dict[str, float]:
    """Test accuracies of the same learner and of the same network, trained on other images: on ``each`` random real
    ones of a class (the mean over draws), on means of classes, and on all real ones. The second hold-out chooses the
    learner's penalty for each. Beside them the test losses of the learner (WHICH_test_loss)."""
    seeds = range(recipe.seeds)
    labels = np.repeat(np.arange(parts.real.classes), each)
    draws = [learned_images.random_images(parts.real, each, seed) for seed in seeds]
    means = learned_images.mean_images(parts.real, each, 0)
    scored = _scorer(learner, parts, labels)
    by_draw = np.array([scored(images) for images in followed(draws, "random draws")])
    by_means, by_all = scored(means), on_all(learner, parts)
    network = lambda images, labels, recipe: _network(learner, parts, images, labels, recipe)
    one = recipe._replace(seeds=1)
    found = {
        "random": np.mean(by_draw[:, 0]),
        "random_deviation": np.std(by_draw[:, 0]),
        "random_test_loss": np.mean(by_draw[:, 1]),
        **{"means": by_means.accuracy, "means_test_loss": by_means.loss},
        **{"all": by_all.accuracy, "all_test_loss": by_all.loss},
        "random_network": np.mean([network(images, labels, one) for images in draws]),
        "means_network": np.mean(network(means, labels, recipe)),
        "all_network": np.mean(network(parts.real.inputs, parts.real.targets, recipe)),
    }
    return {f"baseline/{name}": float(value) for name, value in found.items()}


def _network(learner: Learner, parts: Parts, images: Any, labels: Any, recipe: Recipe) -> np.ndarray:
    given = Images(pictures(parts.real, images), np.asarray(learner.indicators(labels, parts.real.classes)))
    return accuracies(given, (parts.test_images, parts.test[1]), recipe, learner.judge)


def _scorer(learner: Learner, parts: Parts, labels: np.ndarray) -> Callable[[np.ndarray], Scores]:
    """images -> scores, one compiled program for all penalties and images."""
    targets = learner.indicators(labels, parts.real.classes)

    @jax.jit
    def measured(penalty: jax.Array, images: jax.Array) -> tuple[jax.Array, ...]:
        own = replace(learner, penalty=penalty, fixed={"images": images, "labels": targets})
        params = own.fit({})
        chosen = jnp.mean(own.cost(own.outputs(params, {}, parts.chosen_on[0]), parts.chosen_on[1]))
        return chosen, *_on_test(learner, parts, own.outputs(params, {}, parts.test[0]))

    def scored(images: np.ndarray) -> Scores:
        grid = _grid(learner, parts)
        found = [measured(jnp.asarray(penalty), jnp.asarray(images)) for penalty in grid]
        best = lowest((cost for cost, *_ in found), "the grid of penalties")
        return Scores(*map(float, found[best][1:]))

    return scored


def _on_test(learner: Learner, parts: Parts, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Accuracy and mean loss of outputs at the test images."""
    return accuracy(outputs, parts.test[1]), jnp.mean(learner.cost(outputs, parts.test[1]))


def _grid(learner: Learner, parts: Parts) -> tuple[float, ...]:
    """The penalties to choose from. Without a second hold-out to choose on, only the penalty of the run."""
    if not len(parts.chosen_on[1]):
        return (learner.penalty,)
    return PENALTIES if learner.head == "ridge" else SOFTMAX_PENALTIES


def on_all(learner: Learner, parts: Parts) -> Scores:
    """The learner on all real images. Ridge is fitted to those of the second hold-out, too."""
    if learner.head == "softmax":
        ones = [
            (np.hstack([inputs, np.ones((len(inputs), 1))]), labels)
            for inputs, labels in (parts.fitted, parts.chosen_on, parts.test)
        ]
        fit = softmax.best_of_grid(
            ones[0], ones[1] if len(ones[1][1]) else ones[0], parts.real.classes, SOFTMAX_PENALTIES
        )
        return Scores(float(softmax.accuracy(fit.params, ones[2])), float(softmax.mean_loss(fit.params, ones[2])))
    points, labels = (np.concatenate([parts.chosen_on[at], parts.fitted[at]]) for at in (0, 1))
    rows = jax.jit(lambda block: learner.kernel.across(block, jnp.asarray(points)))
    matrix, across = in_blocks(rows, points), in_blocks(rows, parts.test[0])
    size = np.trace(matrix) / len(matrix)
    matrix /= size
    targets = np.asarray(learner.indicators(labels, parts.real.classes))
    chosen, some = slice(len(parts.chosen_on[1])), slice(len(parts.chosen_on[1]), len(parts.chosen_on[1]) + FEWER)
    grid = _grid(learner, parts)
    duals = [solved(matrix[some, some], penalty, targets[some]) for penalty in grid]
    costs = [np.sum((matrix[chosen, some] @ dual - targets[chosen]) ** 2) for dual in duals]
    found = solved(matrix, grid[lowest(costs, "the grid of penalties")], targets)
    return Scores(*map(float, _on_test(learner, parts, jnp.asarray(across @ found / size))))


def solved(matrix: np.ndarray, penalty: float, targets: np.ndarray) -> np.ndarray:
    """(matrix + penalty I)^{-1} targets."""
    factor = jax.scipy.linalg.cho_factor(jnp.asarray(matrix) + penalty * jnp.eye(len(matrix)))
    return np.asarray(jax.scipy.linalg.cho_solve(factor, jnp.asarray(targets)))


def accuracy(outputs: jax.Array, labels: Any) -> jax.Array:
    """The share of samples whose largest output is that of their class."""
    return jnp.mean(jnp.argmax(outputs, axis=1) == jnp.asarray(labels))
