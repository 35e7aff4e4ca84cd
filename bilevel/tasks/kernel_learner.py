"""The learner that is trained on learned images: ridge or softmax regression in the space of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.foundation.typing import Batch, Key, Params, Scalar
from bilevel.kernels import of_points
from bilevel.losses.quadratic import Quadratic
from bilevel.problem import InnerProblem
from bilevel.tasks import softmax, trained_network
from bilevel.tasks.representations import Represent

KERNELS = ("rbf", "ntk", "linear")
HEADS = ("ridge", "softmax")
CERTAIN = 4.0  # logits of a learned label at its start: the probability of its class is then 0.86, of ten classes
ROOT_JITTER = 1e-8  # on the diagonal of a matrix whose root is taken, beside entries of size 1
Learned = Mapping[str, jax.Array]  # images (m, pixels) and labels (m, classes), or one of them


class Kernel:
    """k(x, z) by its name, with the settings that it takes. ValueError for a name that is not in `KERNELS`."""

    def __init__(self, name: str, depth: int, bias: float, scale: float):
        if name not in KERNELS:
            raise ValueError(f"task.kernel={name}: choose one of {', '.join(KERNELS)}.")
        tangent = partial(of_points.neural_tangent, depth=depth, bias=bias)
        self.across: Callable[[jax.Array, jax.Array], jax.Array] = {
            "rbf": partial(of_points.gaussian, scale=scale),
            "ntk": tangent,
            "linear": partial(of_points.linear, bias=bias),
        }[name]
        own = partial(tangent, same=True) if name == "ntk" else self.across
        self.within: Callable[[jax.Array], jax.Array] = lambda points: own(points, points)


@dataclass(frozen=True, eq=False)
class Learner:
    """Regression on images x_i and labels y_i, K_ij = k(x_i, x_j) / t with t = tr k / m, so that K has the trace m.

        ridge:    a = (K + penalty I)^{-1} Y,                                          f(x) = k(x, .) a / t
        softmax:  w = argmin mean_i H(softmax(y_i), L_i w) + penalty/2 ||w||^2,  K = L L',  f(x) = k(x, .) L'^{-1} w / t

    ``fixed`` has the images or labels that are not learned. The unknown of softmax is w, in coordinates of the feature
    space, because the penalty has the curvature 1 there. In a it would have the curvature K, which is close to
    singular. Labels of ridge start as indicators less their mean. Learned labels of softmax are logits, and fixed ones
    are probabilities, 1 for the class.
    """

    represent: Represent
    kernel: Kernel
    head: str
    penalty: Any
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"task.head={self.head}: choose one of {', '.join(HEADS)}.")

    def points(self, learned: Learned) -> jax.Array:
        """What the kernel reads of the images."""
        return self.represent(jnp.asarray({**self.fixed, **learned}["images"]))

    def targets(self, learned: Learned) -> jax.Array:
        """What a model should say of the images: numbers, or probabilities for softmax."""
        labels = jnp.asarray({**self.fixed, **learned}["labels"])
        return jax.nn.softmax(labels) if self.head == "softmax" and "labels" in learned else labels

    def gram(self, learned: Learned) -> tuple[jax.Array, Scalar]:
        """K and t."""
        matrix = self.kernel.within(self.points(learned))
        size = jnp.trace(matrix) / len(matrix)
        return matrix / size, size

    def outputs(self, params: Params, learned: Learned, points: Any) -> jax.Array:
        """f at points that are represented already."""
        matrix, size = self.gram(learned)
        if self.head == "softmax":
            params = jax.scipy.linalg.solve_triangular(root(matrix), params, lower=True, trans="T")
        return self.kernel.across(jnp.asarray(points), self.points(learned)) @ params / size

    def problem(self, shape: tuple[int, ...]) -> InnerProblem:
        """The inner problem, whose unknown is a, or w, (m, classes)."""

        def regularised(learned: Learned, batch: Batch) -> jax.Array:
            matrix, _ = self.gram(learned)
            return matrix + self.penalty * jnp.eye(len(matrix), dtype=matrix.dtype)

        def softmax_loss(params: Params, learned: Learned, batch: Batch) -> Scalar:
            logits = root(self.gram(learned)[0]) @ params
            fit = jnp.mean(optax.softmax_cross_entropy(logits, self.targets(learned)))
            return fit + 0.5 * self.penalty * jnp.sum(params**2)

        ridge = Quadratic(matrix=regularised, linear=lambda learned, batch: self.targets(learned))
        return InnerProblem(
            loss=ridge if self.head == "ridge" else softmax_loss,
            init=lambda key, learned: jnp.zeros(shape, jnp.result_type(float)),
        )

    def fit(self, learned: Learned) -> Params:
        """The solution of the inner problem."""
        targets = self.targets(learned)
        if self.head == "softmax":
            return self.problem(targets.shape).solve(learned, ()).params
        matrix = self.gram(learned)[0]
        factor = jax.scipy.linalg.cho_factor(matrix + self.penalty * jnp.eye(len(matrix), dtype=matrix.dtype))
        return jax.scipy.linalg.cho_solve(factor, targets)

    def cost(self, outputs: jax.Array, labels: Any) -> jax.Array:
        """The loss of every sample: half the squared distance to its centred indicator, or the cross-entropy."""
        if self.head == "softmax":
            return softmax.cross_entropy(outputs, labels)
        wanted = self.indicators(labels, outputs.shape[1])
        return 0.5 * jnp.sum((outputs - wanted) ** 2, axis=1)

    def indicators(self, labels: Any, classes: int) -> Any:
        """What the learner should answer to real images with these labels: 1 for the class, less the mean for ridge."""
        shift = 1 / classes if self.head == "ridge" else 0.0
        return jnp.eye(classes)[labels] - shift

    def starting_labels(self, labels: np.ndarray, classes: int) -> jax.Array:
        """The learned labels at the start: what the classes say, as logits for softmax."""
        size = CERTAIN if self.head == "softmax" else 1.0
        return size * self.indicators(labels, classes)

    @property
    def judge(self) -> Callable[..., Scalar]:
        """The loss by which a network is trained on the same images."""
        return trained_network.soft_cross_entropy if self.head == "softmax" else trained_network.squared_error


def root(matrix: jax.Array) -> jax.Array:
    """The lower Cholesky factor."""
    return jnp.linalg.cholesky(matrix + ROOT_JITTER * jnp.eye(len(matrix), dtype=matrix.dtype))


def start_of(
    learner: Learner, learn: str, images: np.ndarray, labels: np.ndarray, classes: int
) -> Callable[[Key], dict[str, jax.Array]]:
    """key -> what is learned, at its start."""
    whole = {
        "images": lambda: jnp.asarray(images, jnp.result_type(float)),
        "labels": lambda: learner.starting_labels(labels, classes),
    }
    names = ("images", "labels") if learn == "both" else (learn,)
    return lambda key: {name: whole[name]() for name in names}
