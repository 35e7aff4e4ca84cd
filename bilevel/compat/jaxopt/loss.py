"""JAXopt's losses of one label and its scores; batches by `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bilevel import projections
from bilevel.foundation.typing import Scalar
from bilevel.losses import pointwise


def huber_loss(target: Any, pred: Any, delta: float = 1.0) -> Scalar:
    """r^2 / 2 for |r| <= delta, else delta (|r| - delta / 2), r = target - pred."""
    return pointwise.huber(delta).value(jnp.asarray(pred), jnp.asarray(target))


def binary_logistic_loss(label: Any, logit: Any) -> Scalar:
    """log(1 + exp(-(2 label - 1) logit)), label in {0, 1}; NaN for another label."""
    return pointwise.LOGISTIC.value(jnp.asarray(logit, float), jnp.asarray(label))


def binary_sparsemax_loss(label: Any, logit: Any) -> Scalar:
    """sparse_plus(-(2 label - 1) logit), label in {0, 1}."""
    return sparse_plus(jnp.where(label, -logit, logit))


def binary_hinge_loss(label: Any, score: Any) -> Scalar:
    """max(0, 1 - (2 label - 1) score), label in {0, 1}."""
    return jax.nn.relu(1 - score * (2.0 * label - 1.0))


def binary_perceptron_loss(label: Any, score: Any) -> Scalar:
    """max(0, -(2 label - 1) score), label in {0, 1}."""
    return jax.nn.relu(-score * (2.0 * label - 1.0))


def sparse_plus(x: Any) -> Scalar:
    """0 up to -1, x from 1 on, (x + 1)^2 / 4 between them."""
    return jnp.where(x <= -1.0, 0.0, jnp.where(x >= 1.0, x, (x + 1.0) ** 2 / 4))


def sparse_sigmoid(x: Any) -> Scalar:
    """The derivative of `sparse_plus`: (x + 1) / 2 between 0 and 1."""
    return 0.5 * projections.box(jnp.asarray(x) + 1.0, 0.0, 2.0)


def multiclass_logistic_loss(label: Any, logits: Any) -> Scalar:
    """log(sum exp(logits)) - logits[label]; NaN for a label that is no class."""
    return pointwise.cross_entropy(jnp.asarray(logits)[None], jnp.asarray(label)[None])[0]


def multiclass_sparsemax_loss(label: Any, scores: Any) -> Scalar:
    """max over p in the simplex of <p, scores> + (1 - ||p||^2) / 2, less scores[label]."""
    scores = jnp.asarray(scores)
    scores = scores - scores[label]
    p = projections.simplex(jax.lax.stop_gradient(scores))  # the maximiser: its own derivative does not matter
    return jnp.dot(p, scores) + 0.5 * (1 - jnp.dot(p, p))


def multiclass_hinge_loss(label: Any, scores: Any) -> Scalar:
    """max over j of scores[j] + [j != label], less scores[label]."""
    scores = jnp.asarray(scores)
    return jnp.max(scores + 1.0 - jax.nn.one_hot(label, scores.shape[0])) - scores[label]


def multiclass_perceptron_loss(label: Any, scores: Any) -> Scalar:
    """max over j of scores[j], less scores[label]."""
    scores = jnp.asarray(scores)
    return jnp.max(scores) - scores[label]


def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., Scalar]:
    """loss(y_true, scores, *args) = max_fun(scores, *args) - <y_true, scores>."""

    def fy_loss(y_true: Any, scores: Any, *args: Any, **kwargs: Any) -> Scalar:
        return max_fun(scores, *args, **kwargs) - jnp.vdot(y_true, scores)

    return fy_loss
