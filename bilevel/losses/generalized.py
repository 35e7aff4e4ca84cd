"""The losses of generalised linear models as `bl.Linear`: intercept, sample and class weights, a ridge, curvature.

Each takes a batch ``(inputs, targets)`` or ``(inputs, targets, weights)``. With weights s_i, which are those of the
batch times ``weight`` times those of the classes,

    loss(w, h, batch) = sum_i s_i loss(z_i, y_i) / sum_i s_i + 1/2 sum_j ridge_j w_j^2,     z = [inputs, 1] w

or without the division where ``reduction="sum"``. The last row of w is the intercept, which has no ridge; with
``intercept=False`` there is none. ``weight``, ``class_weight``, ``ridge`` and the numbers of a loss are numbers, arrays
or functions of the hyperparameters. docs/losses.md lists the estimators of scikit-learn that these equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO, bcoo_concatenate

from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.losses import pointwise
from bilevel.losses.host_matrix import HostMatrix
from bilevel.losses.linear import Linear
from bilevel.losses.pointwise import Pointwise

REDUCTIONS = ("mean", "sum")
Number = Any  # a number, an array, or a function hparams -> one of these


@dataclass(frozen=True)
class Terms:
    """The common part of these losses."""

    intercept: bool = True
    ridge: Number = 0.0
    weight: Number = 1.0
    class_weight: Number = 1.0  # "balanced", an entry a class, or a function of the hyperparameters
    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction={self.reduction!r}: choose one of {', '.join(REDUCTIONS)}.")
        if isinstance(self.class_weight, dict):
            raise ValueError("class_weight is a dict: give an array with an entry for each class 0, 1, ...")
        if isinstance(self.class_weight, str) and self.class_weight != "balanced":
            raise ValueError(f"class_weight={self.class_weight!r}: the only rule with a name is 'balanced'.")

    def design(self, batch: Batch) -> Any:
        """The inputs, with a column of ones for the intercept."""
        return with_ones(batch[0]) if self.intercept else batch[0]

    def weights(self, hparams: HParams, batch: Batch, classes: int) -> jax.Array:
        """The weight of each sample, (n,)."""
        given = batch[2] if len(batch) > 2 else 1.0
        weights = given * value_of(self.weight, hparams) * jnp.ones(batch[0].shape[0])
        return weights * _of_classes(self.class_weight, hparams, batch[1], weights, classes) if classes else weights

    def ridge_of(self, params: Params, hparams: HParams) -> Scalar:
        if isinstance(self.ridge, int | float) and not self.ridge:
            return jnp.zeros((), params.dtype)
        coefficients = params[:-1] if self.intercept else params
        return 0.5 * jnp.sum(value_of(self.ridge, hparams) * coefficients**2)


def value_of(number: Number, hparams: HParams) -> Any:
    """A number or array, or its value at the hyperparameters where it is a function of them."""
    return number(hparams) if callable(number) else number


def _of_classes(
    class_weight: Number, hparams: HParams, labels: jax.Array, weights: jax.Array, classes: int
) -> jax.Array | float:
    """The class weight of each sample; "balanced" gives every class that occurs the same total."""
    chosen = jnp.asarray(labels)[:, None] == jnp.arange(classes)
    if isinstance(class_weight, str):
        totals = weights @ chosen
        each = jnp.sum(totals) / (classes * jnp.where(totals > 0, totals, 1))
    else:
        each = jnp.broadcast_to(jnp.asarray(value_of(class_weight, hparams)), (classes,))
    return chosen @ each


def with_ones(inputs: Any) -> Any:
    """[inputs, 1], dense or sparse as the inputs are."""
    if isinstance(inputs, HostMatrix):
        raise ValueError(
            "A bl.HostMatrix cannot get a column of ones for the intercept: append it with scipy.sparse.hstack and "
            "state intercept=False, or give a BCOO."
        )
    ones = jnp.ones((inputs.shape[0], 1), inputs.dtype)
    if isinstance(inputs, BCOO):
        return bcoo_concatenate([inputs, BCOO.fromdense(ones, nse=inputs.shape[0])], dimension=1)
    return jnp.concatenate([inputs, ones], axis=1)


def linear(kind: Pointwise | Callable[[HParams], Pointwise], terms: Terms) -> Linear:
    """The loss of predictions z = X w that is a weighted sum of ``kind``, which may depend on the hyperparameters."""

    def at(z: jax.Array, hparams: HParams, batch: Batch) -> tuple[Pointwise, jax.Array]:
        one = kind if isinstance(kind, Pointwise) else kind(hparams)
        classes = 0 if not one.classifies else 2 if z.ndim == 1 else z.shape[1]
        weights = terms.weights(hparams, batch, classes)
        return one, weights / jnp.sum(weights) if terms.reduction == "mean" else weights

    def loss(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        one, weights = at(z, hparams, batch)
        _check(z, batch[1], one)
        each = one.value(z, batch[1])
        each = each if each.ndim == 1 else jnp.sum(each, axis=1)
        return jnp.vdot(weights, each) + terms.ridge_of(params, hparams)

    def curvature(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> jax.Array:
        one, weights = at(z, hparams, batch)
        each = one.curvature(z, batch[1])
        return weights.reshape(-1, *(1,) * (each.ndim - 1)) * each

    return Linear(design=terms.design, loss=loss, curvature=curvature)


def _check(z: jax.Array, targets: Any, kind: Pointwise) -> None:
    """ValueError where predictions and targets differ in shape, because (n,) against (n, 1) would be n x n errors."""
    wanted = z.shape[:1] if kind.classifies else z.shape
    if jnp.shape(targets) != wanted:
        raise ValueError(
            f"The targets have the shape {jnp.shape(targets)} and the predictions {z.shape}: targets of the shape "
            f"{wanted} are needed."
        )


def squared(*, intercept: bool = True, ridge: Number = 0.0, weight: Number = 1.0, reduction: str = "mean") -> Linear:
    """1/2 (z - y)^2; targets (n,), or (n, k) with params (features, k). scikit-learn: Ridge, Lasso, ElasticNet,
    LinearRegression.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.losses.squared(ridge=jnp.exp)
    >>> float(loss(jnp.array([2.0, 1.0]), jnp.log(3.0), (jnp.array([[1.0], [0.0]]), jnp.array([1.0, 1.0]))))
    7.0
    """
    return linear(pointwise.SQUARED, Terms(intercept, ridge, weight, 1.0, reduction))


def logistic(
    *,
    intercept: bool = True,
    ridge: Number = 0.0,
    weight: Number = 1.0,
    class_weight: Number = 1.0,
    reduction: str = "mean",
) -> Linear:
    """log(1 + exp(-s z)), s = 2 y - 1, for labels y of 0 and 1. scikit-learn: LogisticRegression of two classes."""
    return linear(pointwise.LOGISTIC, Terms(intercept, ridge, weight, class_weight, reduction))


def multinomial(
    *,
    intercept: bool = True,
    ridge: Number = 0.0,
    weight: Number = 1.0,
    class_weight: Number = 1.0,
    reduction: str = "mean",
) -> Linear:
    """-log softmax(z)_y for labels y in 0 .. k-1 and params (features, k). scikit-learn: LogisticRegression of three
    classes or more. A constant in all intercepts changes nothing, so the solution is not unique with an intercept."""
    return linear(pointwise.MULTINOMIAL, Terms(intercept, ridge, weight, class_weight, reduction))


def squared_hinge(
    *,
    intercept: bool = True,
    ridge: Number = 0.0,
    weight: Number = 1.0,
    class_weight: Number = 1.0,
    reduction: str = "mean",
) -> Linear:
    """max(0, 1 - s z)^2, s = 2 y - 1, for labels y of 0 and 1. scikit-learn: LinearSVC, which has a ridge on the
    intercept as well (a column of ones in the inputs, and intercept=False)."""
    return linear(pointwise.SQUARED_HINGE, Terms(intercept, ridge, weight, class_weight, reduction))


def huber(
    threshold: Number = 1.35,
    *,
    intercept: bool = True,
    ridge: Number = 0.0,
    weight: Number = 1.0,
    reduction: str = "mean",
) -> Linear:
    """1/2 r^2 for r = |z - y| up to ``threshold``, threshold (r - threshold/2) beyond (Huber, 1964). scikit-learn:
    HuberRegressor, whose threshold is epsilon times the scale that it finds."""
    kind = lambda hparams: pointwise.huber(value_of(threshold, hparams))
    return linear(kind, Terms(intercept, ridge, weight, 1.0, reduction))


def quantile(
    level: Number = 0.5,
    width: Number = 0.1,
    *,
    intercept: bool = True,
    ridge: Number = 0.0,
    weight: Number = 1.0,
    reduction: str = "mean",
) -> Linear:
    """max(level r, (level - 1) r) for r = y - z, with its kink rounded over ``width``. scikit-learn: QuantileRegressor
    in the limit of a small width."""
    kind = lambda hparams: pointwise.quantile(value_of(level, hparams), value_of(width, hparams))
    return linear(kind, Terms(intercept, ridge, weight, 1.0, reduction))


def poisson(*, intercept: bool = True, ridge: Number = 0.0, weight: Number = 1.0, reduction: str = "mean") -> Linear:
    """exp(z) - y z for counts y, the predicted mean being exp(z). scikit-learn: PoissonRegressor."""
    return linear(pointwise.POISSON, Terms(intercept, ridge, weight, 1.0, reduction))
