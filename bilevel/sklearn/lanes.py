"""The compiled program of a search: inner problem and hypergradient of all folds side by side."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import losses
from bilevel.engines import Carry, Implicit, Point
from bilevel.engines.hypergradients import hypergradient
from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import Batch, HParams, Params, Scalar
from bilevel.linear_solve import Dense
from bilevel.losses.linear import Linear
from bilevel.penalties import L1, Zero
from bilevel.problem import InnerProblem
from bilevel.sklearn.folds import Data, Folds, dense, training_weights
from bilevel.sklearn.space import Space
from bilevel.solvers import Auto, Newton
from bilevel.task import Task

DENSE = 600  # unknowns up to which a factor of the Hessian costs less than many gradients
SETTLED = 1e-10  # the tolerance of the inner solves: below what two roundings of one sum differ by in the outer search


class Kind(NamedTuple):
    """What the statement of a fold's problem depends on, beside its data."""

    loss: str
    reduction: str
    intercept: bool
    features: int
    columns: int  # of coefficients; 0: params are a vector
    l1: bool
    l2: bool

    @property
    def shape(self) -> tuple[int, ...]:
        rows = self.features + self.intercept
        return (rows, self.columns) if self.columns else (rows,)


class Lanes(NamedTuple):
    """The value, gradient and solution of each lane."""

    values: np.ndarray  # (lanes,)
    gradients: dict[str, np.ndarray]  # with respect to the log penalties, (lanes, features, columns)
    params: np.ndarray
    carry: Any
    failed: np.ndarray  # (lanes,)
    errors: np.ndarray  # estimates of the error of a lane's gradient


def statement(kind: Kind) -> Task:
    """A fold as a `bl.Task`: hyperparameters are the log penalties of all coefficients, (features, columns or 1)."""
    make = getattr(losses, kind.loss)

    def penalty(name: str, hparams: HParams) -> jax.Array:
        values = jnp.exp(hparams[name])
        return values if kind.columns else values[:, 0]

    def weight(hparams: HParams) -> jax.Array:
        values = penalty("l1", hparams)
        return jnp.concatenate([values, jnp.zeros_like(values[:1])]) if kind.intercept else values

    ridge = functools.partial(penalty, "l2") if kind.l2 else 0.0
    loss = make(intercept=kind.intercept, ridge=ridge, reduction=kind.reduction)
    if kind.loss == "multinomial" and kind.intercept:
        loss = _centred(loss)
    small = np.prod(kind.shape) <= DENSE
    smooth = Newton(tol=SETTLED, linear_solve=Dense()) if small else Auto(tol=SETTLED)
    return Task(
        inner=InnerProblem(
            loss=loss,
            init=lambda key, hparams: jnp.zeros(kind.shape),
            penalty=L1(weight=weight) if kind.l1 else Zero(),
            solver=Auto(tol=SETTLED) if kind.l1 else smooth,
        ),
        outer_loss=make(intercept=kind.intercept),
        init_hparams=lambda key: jnp.zeros(()),
        batches=lambda key, step: (None, None),
        name="fold",
    )


def _centred(loss: Linear) -> Linear:
    """With 1/2 (sum of the intercepts)^2, which is 0 at one of the equally good solutions, so that it is unique."""

    def centred(z: jax.Array, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return loss.loss(z, params, hparams, batch) + 0.5 * jnp.sum(params[-1]) ** 2

    return Linear(design=loss.design, loss=centred, curvature=loss.curvature)


@functools.lru_cache(maxsize=32)
def program_of(kind: Kind) -> tuple[Program, Program]:
    """The program of all lanes, and that of their first carry; compiled again for other shapes only."""
    task = statement(kind)
    engine = Implicit(linear_solve=Dense()) if np.prod(kind.shape) <= DENSE else Implicit()

    def over(function: Any, folds: tuple, *more: Any) -> Any:
        inputs, targets, train, validation = folds
        each = lambda x, train, validation, *more: function(((x, targets, train), (x, targets, validation)), *more)
        axes = (0 if inputs.ndim == 3 else None, 0, 0, *(0 for _ in more))
        return jax.vmap(each, in_axes=axes)(inputs, train, validation, *more)

    def lanes(hparams: HParams, folds: tuple, carry: Carry) -> tuple:
        def one(batch: Batch, carry: Carry) -> tuple:
            value, grad, report = hypergradient(task, hparams, engine, batch=batch, carry=carry)
            return value, grad, report.params, report.carry, ~report.status.ok, report.error_estimate

        return over(one, folds, carry)

    def first(hparams: HParams, folds: tuple) -> Carry:
        return over(
            lambda batch: engine.first_carry(task, Point(hparams, batch[0], batch[1], jax.random.key(0))), folds
        )

    return Program(lanes), Program(first)


def rows_for(rows: int) -> int:
    """Rows after padding with weights of zero, so that fits of nearly the same shape share a program."""
    return max(64, _rounded(rows, 3))


def features_for(features: int) -> int:
    """Features after padding with columns of zeros, whose coefficients are zero."""
    return max(4, _rounded(features, 2))


def _rounded(number: int, bits: int) -> int:
    """Up to a number whose binary digits after the first ``bits`` + 1 are zero: at most 1/2^bits larger."""
    unit = max(4, 2 ** (number.bit_length() - 1 - bits))
    return -(-number // unit) * unit


class Problem:
    """The folds of a search under one statement: penalties in, `Lanes` out, each solve from the solution before."""

    def __init__(self, kind: Kind, folds: Folds, targets: np.ndarray, used: np.ndarray):
        self.kind, self.used = kind, used  # which lanes count, (lanes,) of bool
        rows, self.wide = rows_for(len(targets)), features_for(kind.features)
        self.program, self.first = program_of(kind._replace(features=self.wide))
        inputs = _padded(_padded(folds.inputs, -1, self.wide), -2, rows)
        weights = [_padded(weights, 1, rows) for weights in (folds.train, folds.validation)]
        with jax.enable_x64(True):
            self.data = tuple(jnp.asarray(array) for array in (inputs, _padded(targets, 0, rows), *weights))
        self.carry: Any = None

    def __call__(self, penalties: dict[str, np.ndarray]) -> Lanes:
        with jax.enable_x64(True):
            hparams = {name: jnp.asarray(_padded(logs, 0, self.wide)) for name, logs in penalties.items()}
            carry = self.first(hparams, self.data) if self.carry is None else self.carry
            values, gradients, params, carry, failed, errors = self.program(hparams, self.data, carry)
        own = np.r_[: self.kind.features, self.wide : self.wide + self.kind.intercept]
        found = Lanes(
            np.asarray(values),
            {name: np.asarray(gradient)[:, : self.kind.features] for name, gradient in gradients.items()},
            np.asarray(params)[:, own],
            carry,
            np.asarray(failed),
            np.asarray(errors),
        )
        self.carry = None if np.any(found.failed[self.used]) else carry  # a failed solve is no start
        return found


def _padded(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    more = [(0, 0)] * array.ndim
    more[axis] = (0, size - array.shape[axis])
    return np.pad(array, more)


def everything(kind: Kind, space: Space, u: np.ndarray, X: Any, folds: Folds, data: Data) -> np.ndarray:
    """The solution on all rows, by the program of the folds with all rows in each lane."""
    lanes, rows = folds.train.shape
    inputs = dense(X)
    weights = np.tile(training_weights(np.arange(rows), data), (lanes, 1))
    inputs = inputs if folds.inputs.ndim == 2 else np.tile(inputs, (lanes, 1, 1))
    whole = Folds(inputs, weights, weights, folds.splits)
    return Problem(kind, whole, data.targets, np.ones(lanes, bool))(space.penalties(u)).params[0]
