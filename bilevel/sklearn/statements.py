"""What the folds of each family minimise, from the losses of the library."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import losses
from bilevel.foundation.typing import Batch, HParams, Scalar
from bilevel.losses import pointwise
from bilevel.losses.generalized import with_ones
from bilevel.penalties import L1, GroupLasso, Zero
from bilevel.problem import InnerProblem
from bilevel.sklearn.newton import Statement
from bilevel.solvers import Auto
from bilevel.task import Task

SETTLED = 1e-10  # tolerance of the general solvers: in the outer search rounding hides anything smaller
SCALES = 9  # of scales at which a fit without residuals is tried
LEAST = 1e-8  # of Huber's scale, relative to the largest target: without residuals the scale would go to 0


class Kind(NamedTuple):
    """The facts that the statement of a fold's problem depends on, beside its data."""

    loss: str
    reduction: str
    intercept: bool
    features: int
    columns: int  # of coefficients; 0: params are a vector
    l1: bool
    l2: bool
    setting: float = 0.0  # the number that the loss takes, such as Huber's threshold
    kernel: str = ""  # of a kernel machine

    @property
    def tail(self) -> int:
        """Rows of params after the rows of the features: an intercept, a scale."""
        return self.intercept + (self.loss == "huber")

    @property
    def shape(self) -> tuple[int, ...]:
        rows = self.features + self.tail
        return (rows, self.columns) if self.columns else (rows,)

    @property
    def penalised(self) -> int:
        """Rows of params that have a penalty: LinearSVC penalises its intercept too."""
        return self.features + (self.intercept if self.loss == "squared_hinge" else 0)

    @property
    def groups(self) -> bool:
        """Whether the penalty is on the rows of the coefficients."""
        return self.loss == "multi_task"


def fold_loss(kind: Kind) -> Any:
    """(params, hparams, batch) -> loss, without a penalty and in the reduction of the estimator."""
    if kind.loss == "huber":
        return lambda params, hparams, batch: concomitant(params, batch, kind)
    if kind.loss == "squared_hinge" and kind.columns:
        return lambda params, hparams, batch: one_against_rest(params, batch, kind)
    make = getattr(losses, "squared" if kind.groups else kind.loss)
    return make(intercept=kind.intercept, reduction=kind.reduction)


def concomitant(params: jax.Array, batch: Batch, kind: Kind) -> Scalar:
    """sum_i s_i (scale + Huber(r_i / scale) scale) with the scale, an unknown, in the last place (Huber, 1981).

    The scale is sqrt(unknown^2 + least^2), because it would go to 0 where a fit has no residuals. Above 1e-7 of the
    largest target that equals the unknown to rounding; HuberRegressor bounds its scale below for the same reason."""
    inputs, targets, weights = batch
    scale = scale_of(params[-1], targets)
    z = (with_ones(inputs) if kind.intercept else inputs) @ params[:-1]
    each = scale + 2 * scale * pointwise.huber(kind.setting).value(z / scale, targets / scale)
    return weights @ each / (jnp.sum(weights) if kind.reduction == "mean" else 1)


def scale_of(unknown: jax.Array, targets: jax.Array) -> jax.Array:
    """Huber's scale, which stays above a rounding of the targets."""
    largest = jnp.max(jnp.abs(targets))
    return jnp.hypot(unknown, LEAST * jnp.where(largest > 0, largest, 1.0))


def concomitant_ways(params: jax.Array, slope: jax.Array, hparams: HParams, batch: Batch, kind: Kind) -> jax.Array:
    """Directions that lower `concomitant` with its ridge where Newton's does not.

    The first uses the curvature of all residuals on the parabola, and in the scale the curvature of a parabola. It is
    in the units of each unknown, so a step is right for targets of any size. The others go to the solutions with all
    residuals on the parabola, at scales from the least to the largest target, because the minimum without residuals has
    the least scale, and Newton's steps would take hundreds to reach it."""
    inputs, targets, weights = batch
    scale, largest = scale_of(params[-1], targets), scale_of(jnp.zeros(()), targets) / LEAST
    columns = with_ones(inputs) if kind.intercept else inputs
    ridge = 2 * jnp.exp(hparams["l2"][:, 0]) if kind.l2 else jnp.zeros(kind.features)
    ridge = jnp.concatenate([ridge, jnp.zeros(kind.intercept)])
    curved, pulled = 2 * columns.T @ (weights[:, None] * columns), 2 * columns.T @ (weights * targets)
    total = jnp.sum(weights)
    first = -jnp.linalg.solve(jnp.diag(ridge) + curved / scale, slope[:-1])

    def towards(scale: jax.Array) -> jax.Array:
        found = jnp.linalg.solve(jnp.diag(ridge * scale) + curved, pulled)
        spread = jnp.sqrt(weights @ (targets - columns @ found) ** 2 / total)
        return jnp.append(found, spread) - params

    others = jax.vmap(towards)(jnp.geomspace(LEAST, 1, SCALES) * largest)
    return jnp.vstack([jnp.append(first, -slope[-1] * scale / total), jnp.where(jnp.isfinite(others), others, 0)])


def one_against_rest(params: jax.Array, batch: Batch, kind: Kind) -> Scalar:
    """The sum of the losses of each class against all others."""
    inputs, labels, weights = batch
    loss = losses.squared_hinge(intercept=kind.intercept, reduction=kind.reduction)
    each = lambda column, number: loss(column, None, (inputs, (labels == number).astype(int), weights))
    return jnp.sum(jax.vmap(each, in_axes=(1, 0))(params, jnp.arange(kind.columns)))


def smooth_loss(kind: Kind) -> Any:
    """The loss of a fold with its ridge."""
    plain = fold_loss(kind)

    def loss(params: jax.Array, hparams: HParams, batch: Batch) -> Scalar:
        value = plain(params, hparams, batch)
        if kind.l2:
            logs = hparams["l2"] if params.ndim == 2 else hparams["l2"][:, 0]
            ridge = jnp.exp(logs) * (2.0 if kind.loss == "huber" else 1.0)  # HuberRegressor has no factor of 1/2
            value = value + 0.5 * jnp.sum(ridge * params[: kind.penalised] ** 2)
        if kind.loss == "multinomial" and kind.intercept:  # one of the equally good solutions, to be unique
            value = value + 0.5 * jnp.sum(params[-1]) ** 2
        return value

    return loss


def weights_of(kind: Kind, hparams: HParams) -> jax.Array:
    """The weights of the l1 penalty, in the shape of params, or one a row for a penalty on the rows."""
    values = jnp.exp(hparams["l1"])
    values = values if kind.columns and not kind.groups else values[:, 0]
    return jnp.concatenate([values, jnp.zeros((kind.tail, *values.shape[1:]))])


def outer_loss(kind: Kind) -> Any:
    """The loss on the validation rows: the estimator's own, without penalty, by weights whose sum is 1.

    For criterion="sure" the batch also has a term that is linear in the predictions, and a constant."""
    plain = fold_loss(kind._replace(reduction="sum"))

    def loss(params: jax.Array, hparams: HParams, batch: Batch) -> Scalar:
        inputs, targets, weights, linear, constant = batch
        z = (with_ones(inputs) if kind.intercept else inputs) @ params[: kind.features + kind.intercept]
        return plain(params, hparams, (inputs, targets, weights)) + jnp.vdot(linear, z) + constant

    def simple(params: jax.Array, hparams: HParams, batch: Batch) -> Scalar:
        return plain(params, hparams, batch[:3])

    return loss if kind.loss == "squared" and not kind.columns else simple


def statement(kind: Kind) -> Statement:
    """For `newton.answer`, whose params have two axes."""
    smooth, outer = smooth_loss(kind), outer_loss(kind)
    rows, width = kind.shape if kind.groups else (int(np.prod(kind.shape)), 1)
    shaped = lambda function: lambda params, h, batch: function(params.reshape(kind.shape), h, batch)
    weights = (lambda hparams: jnp.ravel(weights_of(kind, hparams))) if kind.l1 else None
    more = lambda params, slope, h, batch: concomitant_ways(params, slope, h, batch, kind)
    ways = more if kind.loss == "huber" else None
    return Statement((rows, width), shaped(smooth), shaped(outer), weights, ways)


def _structured(kind: Kind) -> Any:
    """The loss of a fold as a `bl.Linear` where the library has it, so that solvers use the design."""
    if kind.loss not in ("squared", "logistic", "multinomial", "poisson"):
        return smooth_loss(kind)

    def ridge(hparams: HParams) -> jax.Array:
        return jnp.exp(hparams["l2"] if kind.columns else hparams["l2"][:, 0])

    make = getattr(losses, kind.loss)
    loss = make(intercept=kind.intercept, reduction=kind.reduction, ridge=ridge if kind.l2 else 0.0)
    if kind.loss != "multinomial" or not kind.intercept:
        return loss

    def centred(z: jax.Array, params: jax.Array, hparams: HParams, batch: Batch) -> Scalar:
        return loss.loss(z, params, hparams, batch) + 0.5 * jnp.sum(params[-1]) ** 2

    return losses.Linear(design=loss.design, loss=centred, curvature=loss.curvature)


def first_params(kind: Kind) -> jax.Array:
    """Zeros, and one for a scale, because the loss has no slope in the scale at zero."""
    zeros = jnp.zeros(kind.shape)
    return zeros.at[-1].set(1.0) if kind.loss == "huber" else zeros


def task_of(kind: Kind) -> Task:
    """The fold's problem as a `bl.Task`, for problems whose Hessian does not fit."""
    weight = lambda hparams: weights_of(kind, hparams)
    penalty = (GroupLasso if kind.groups else L1)(weight=weight) if kind.l1 else Zero()
    return Task(
        inner=InnerProblem(
            loss=_structured(kind),
            init=lambda key, hparams: first_params(kind),
            penalty=penalty,
            solver=Auto(tol=SETTLED),
        ),
        outer_loss=outer_loss(kind),
        init_hparams=lambda key: jnp.zeros(()),
        batches=lambda key, step: (None, None),
        name="fold",
    )
