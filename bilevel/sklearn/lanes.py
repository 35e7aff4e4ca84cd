"""The compiled program of a search: inner problem and hypergradient of all folds side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.engines import Carry, Implicit, Point
from bilevel.engines.hypergradients import hypergradient
from bilevel.foundation.compilation import Program
from bilevel.foundation.typing import Batch, HParams
from bilevel.sklearn import kernels, newton
from bilevel.sklearn.folds import Folds
from bilevel.sklearn.statements import Kind, statement, task_of

DENSE = 600  # unknowns up to which a factor of the Hessian costs less than many gradients


class Lanes(NamedTuple):
    """The value, gradient and solution of each lane."""

    values: np.ndarray  # (lanes,)
    gradients: dict[str, np.ndarray]  # with respect to the log penalties, (lanes, penalised rows, columns)
    params: np.ndarray
    carry: Any
    failed: np.ndarray  # (lanes,)
    errors: np.ndarray  # estimates of the error of a lane's gradient
    logs: dict[str, np.ndarray]  # the log penalties


@functools.lru_cache(maxsize=32)
def program_of(kind: Kind) -> tuple[Program, Callable]:
    """The program of all lanes, and a function that gives their first carry; compiled again for other shapes only."""
    if not kind.kernel and np.prod(kind.shape) > DENSE:
        return _general(kind)
    if kind.kernel:
        one = lambda hparams, inner, outer, start: kernels.kernel_ridge(kind.kernel, hparams, inner, outer)
    else:
        one = functools.partial(newton.answer, statement(kind))

    def lanes(hparams: HParams, folds: tuple, start: jax.Array) -> tuple:
        def answer(batch: tuple, hparams: HParams, start: jax.Array) -> tuple:
            found = one(hparams, batch[0], batch[1], start)
            carry = start if kind.kernel else found.params
            return found.value, found.gradient, found.params, carry, found.failed, found.error

        return _over(answer, folds, hparams, start)

    return Program(lanes), lambda hparams, folds: _start(kind, folds)


def _start(kind: Kind, folds: tuple) -> jax.Array:
    """Where the first solve of each lane starts: zero coefficients, and the deviation of the targets as their scale."""
    lanes, targets = folds[2].shape[0], np.asarray(folds[1])
    if kind.kernel:  # solved from scratch each time
        return jnp.zeros(lanes)
    start = np.zeros((lanes, *kind.shape))
    if kind.loss == "huber":
        spread = np.sqrt(np.mean((targets - np.mean(targets)) ** 2))
        start[:, -1] = spread if spread > 0 else 1.0
    return jnp.asarray(start.reshape(lanes, -1))


def _over(function: Callable, folds: tuple, *more: Any) -> Any:
    """The function of the two batches of a lane, over all lanes."""
    inputs, targets, train, validation, linear, constant = folds

    def each(x: Any, y: Any, train: Any, validation: Any, linear: Any, constant: Any, *more: Any) -> Any:
        return function(((x, y, train), (x, y, validation, linear, constant)), *more)

    axes = (0 if inputs.ndim == 3 else None, *(0 for _ in range(5)), *(0 for _ in more))
    return jax.vmap(each, in_axes=axes)(inputs, targets, train, validation, linear, constant, *more)


def _general(kind: Kind) -> tuple[Program, Program]:
    """The function of a lane by the solvers and engines of the library, which need no Hessian."""
    task, engine = task_of(kind), Implicit(accuracy="residual")

    def lanes(hparams: HParams, folds: tuple, carry: Carry) -> tuple:
        def one(batch: Batch, hparams: HParams, carry: Carry) -> tuple:
            value, grad, report = hypergradient(task, hparams, engine, batch=batch, carry=carry)
            return value, grad, report.params, report.carry, ~report.status.ok, report.error_estimate

        return _over(one, folds, hparams, carry)

    def first(hparams: HParams, folds: tuple) -> Carry:
        one = lambda batch, hparams: engine.first_carry(task, Point(hparams, batch[0], batch[1], jax.random.key(0)))
        return _over(one, folds, hparams)

    return Program(lanes), Program(first)


def rows_for(rows: int) -> int:
    """Rows after padding with weights of zero, so that fits of nearly the same shape share a program."""
    return max(64, _rounded(rows, 3))


def features_for(features: int) -> int:
    """Features after padding with columns of zeros, whose coefficients are zero."""
    return max(4, _rounded(features, 2))


def _rounded(number: int, bits: int) -> int:
    """The next number whose binary digits after the first ``bits`` + 1 are zero: at most 1/2^bits larger."""
    unit = max(4, 2 ** (number.bit_length() - 1 - bits))
    return -(-number // unit) * unit


class Problem:
    """The folds of a search under one statement: penalties in, `Lanes` out, each solve from the solution before."""

    def __init__(self, kind: Kind, folds: Folds, targets: np.ndarray, used: np.ndarray) -> None:
        self.kind, self.used = kind, used  # which lanes count, (lanes,) of bool
        self.wide = kind._replace(features=features_for(kind.features))
        self.rows = rows_for(len(targets))
        self.program, self.first = program_of(self.wide)
        lanes = len(folds.train)
        targets = np.broadcast_to(targets, (lanes, *targets.shape)) if folds.targets is None else folds.targets
        totals = np.sum(folds.validation, axis=1, keepdims=True)
        given = folds.targets is not None  # an estimate of the risk, whose weights are no mean
        validation = folds.validation / (1.0 if given else np.where(totals > 0, totals, 1.0))
        linear = np.zeros((lanes, targets.shape[1])) if folds.linear is None else folds.linear
        constant = np.zeros(lanes) if folds.constant is None else folds.constant
        inputs = _padded(_padded(folds.inputs, -1, self.wide.features), -2, self.rows)
        by_rows = [_padded(one, 1, self.rows) for one in (targets, folds.train, validation, linear)]
        with jax.enable_x64(True):
            self.data = tuple(jnp.asarray(array) for array in (inputs, *by_rows, constant))
        self.carry: Any = None

    def __call__(self, logs: dict[str, np.ndarray]) -> Lanes:
        """At these log penalties: the same in all lanes, or with an axis of lanes before the others."""
        with jax.enable_x64(True):
            hparams = {name: jnp.asarray(self._spread(name, one)) for name, one in logs.items()}
            carry = self.first(hparams, self.data) if self.carry is None else self.carry
            values, gradients, params, carry, failed, errors = self.program(hparams, self.data, carry)
        found = Lanes(
            np.asarray(values),
            {
                name: np.asarray(one) if name == "strength" else self._own(np.asarray(one))
                for name, one in gradients.items()
            },
            self._params(np.asarray(params)),
            carry,
            np.asarray(failed),
            np.asarray(errors),
            logs,
        )
        self.carry = None if np.any(found.failed[self.used]) else carry  # a failed solve gives no start
        return found

    def begin(self, params: np.ndarray) -> None:
        """Starts the next solve of each lane from these params (lanes, rows, columns)."""
        more = [self.kind.features] * (self.wide.features - self.kind.features)
        with jax.enable_x64(True):
            self.carry = jnp.asarray(np.insert(params, more, 0.0, axis=1).reshape(len(params), -1))

    def _spread(self, name: str, logs: np.ndarray) -> np.ndarray:
        """Penalties of each lane.

        The penalties of the padding stand after the features and before the penalty of an intercept.
        """
        logs = np.broadcast_to(logs, (len(self.used), *logs.shape[-2:]))
        more = [] if name == "strength" else [self.kind.features] * (self.wide.features - self.kind.features)
        return np.insert(logs, more, 0.0, axis=1)

    def _own(self, array: np.ndarray) -> np.ndarray:
        """The gradient without the columns of the padding."""
        return np.delete(array, np.s_[self.kind.features : self.wide.features], axis=1)

    def _params(self, params: np.ndarray) -> np.ndarray:
        if self.kind.kernel:
            return params
        return self._own(params.reshape(len(params), *self.wide.shape))


def _padded(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    more = [(0, 0)] * array.ndim
    more[axis] = (0, size - array.shape[axis])
    return np.pad(array, more)
