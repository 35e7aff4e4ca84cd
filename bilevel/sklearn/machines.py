"""Support vector machines: each fold is fitted by LIBSVM and differentiated on its support vectors.

LIBSVM finds which duals are free, that is, between their ends. The free duals and the intercept solve a small linear
system, which makes them exact and gives their derivative.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC
from threadpoolctl import ThreadpoolController

from bilevel.sklearn.dual import WRONG, ends, exact
from bilevel.sklearn.folds import Folds
from bilevel.sklearn.interior import Point
from bilevel.sklearn.lanes import Lanes
from bilevel.sklearn.statements import Kind

TIGHT = 1e-10  # LIBSVM's tolerance for a machine whose duals are its own, in units of a margin
LOOSE = 1e-6  # and for one that is made exact afterwards
ROUNDING = 1e-14  # relative rounding of a sum of duals times kernel entries
MOST = 10**6  # steps of LIBSVM for the first
QUICK = 10**5  # and for the second, because the interior-point method goes on where they end
TINY = 1e-300


def tolerance(largest: float, size: float) -> float:
    """The tightest that rounding allows, for duals up to ``largest`` in sum and kernel entries up to ``size``."""
    return max(TIGHT, ROUNDING * largest * size)


def gram(kernel: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """k(x_i, z_j): x'z, or exp(-|x - z|^2)."""
    products = one @ other.T
    if kernel == "linear":
        return products
    return np.exp(np.minimum(2 * products - np.sum(one**2, 1)[:, None] - np.sum(other**2, 1)[None, :], 0))


class Rows(NamedTuple):
    """Rows of two classes: inputs times the roots of gamma, signs of the second class against the first, weights."""

    inputs: np.ndarray
    signs: np.ndarray
    weights: np.ndarray


class Slopes(NamedTuple):
    """The hinge loss of a pair on held-out rows, and its derivative."""

    value: float
    strength: float  # with respect to the log of 1 / C
    gamma: np.ndarray  # with respect to log gamma, (features,)
    residual: float  # of the optimality conditions, in units of a margin
    error: float  # an estimate of the error of the derivative


NOTHING = Slopes(0.0, 0.0, np.zeros(1), 0.0, 0.0)


class Machines:
    """`Problem` for an SVC, with one machine for each pair of classes, as in scikit-learn. The losses of the pairs are
    summed.

    The derivative is exact as long as no dual changes side; there the loss on the folds has a kink. Source: Chapelle et
    al., 2002.
    """

    def __init__(self, kind: Kind, folds: Folds, targets: np.ndarray, used: np.ndarray) -> None:
        self.kind, self.folds, self.targets, self.used = kind, folds, targets, used
        self.blas = ThreadpoolController()  # the matrices of a pair are too small for threads of their own

    def __call__(self, logs: dict[str, np.ndarray]) -> Lanes:
        """At these log penalties."""
        cost = float(np.exp(-logs["strength"][0, 0]))
        roots = np.exp(0.5 * logs["gamma"][:, 0]) if self.kind.kernel == "rbf" else 1.0
        lanes = len(self.used)
        one = lambda lane: self._lane(lane, cost, roots) if self.used[lane] else NOTHING
        with self.blas.limit(limits=1, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # ``residual`` says it
            with ThreadPoolExecutor(min(lanes, os.cpu_count() or 1)) as threads:
                found = list(threads.map(one, range(lanes)))
        widths = [np.broadcast_to(one.gamma, (self.kind.features,)) for one in found]
        return Lanes(
            np.array([one.value for one in found]),
            {"strength": np.reshape([one.strength for one in found], (-1, 1, 1)), "gamma": np.stack(widths)[..., None]},
            np.zeros((lanes, 0)),
            None,
            np.array([not one.residual < WRONG for one in found]),
            np.array([one.error for one in found]),
            logs,
        )

    def _lane(self, lane: int, cost: float, roots: Any) -> Slopes:
        inputs = self.folds.inputs if self.folds.inputs.ndim == 2 else self.folds.inputs[lane]
        train, held = self.folds.train[lane], self.folds.validation[lane]
        held = held / max(np.sum(held), TINY)
        every = [(inputs[own] * roots, self.targets[own], of[own]) for of in (train, held) for own in [of > 0]]
        machine = fitted(self.kind.kernel, cost, *every[0])
        found = [slopes(self.kind.kernel, cost, *one) for one in pairs(machine, cost, every[0], every[1])]
        values, strengths, gammas, residuals, errors = zip(*found, strict=True)
        return Slopes(sum(values), sum(strengths), np.sum(gammas, axis=0), max(residuals), sum(errors))


def fitted(kernel: str, cost: float, inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Any:
    size = float(np.max(np.sum(inputs**2, axis=1))) if kernel == "linear" else 1.0
    tol = max(LOOSE, tolerance(float(np.max(weights)) * cost * len(weights), size))
    machine: Any = SVC(kernel=kernel, C=cost, tol=tol, max_iter=QUICK).set_params(gamma=1.0)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return machine.fit(inputs, labels, sample_weight=weights)


def pairs(machine: Any, cost: float, train: tuple, held: tuple) -> Iterator[tuple[Point, Rows, Rows]]:
    """The machine of each pair of classes, its training rows and its held-out rows.

    Of more than two classes scikit-learn's decisions are positive for the first class of a pair, of two classes for the
    second. The coefficients of a support vector of class c against the others follow each other in its column.
    """
    _, labels, weights = train
    own, classes = labels[machine.support_], machine.classes_
    sign = 1.0 if len(classes) == 2 else -1.0
    for number, (first, second) in enumerate(itertools.combinations(range(len(classes)), 2)):
        row = np.where(own == classes[first], second - 1, first)
        mine = (own == classes[first]) | (own == classes[second])
        duals = np.zeros(len(labels))
        duals[machine.support_[mine]] = np.abs(machine.dual_coef_[row, np.arange(len(own))][mine])
        both = (labels == classes[first]) | (labels == classes[second])
        duals, upper = duals[both], cost * weights[both]
        free = (duals > 0) & (duals < upper)
        point = Point(duals, sign * float(machine.intercept_[number]), free, (duals > 0) & ~free)
        yield point, _rows(train, classes[first], classes[second]), _rows(held, classes[first], classes[second])


def _rows(rows: tuple, first: Any, second: Any) -> Rows:
    inputs, labels, weights = rows
    mine = (labels == first) | (labels == second)
    return Rows(inputs[mine], np.where(labels[mine] == second, 1.0, -1.0), weights[mine])


def slopes(kernel: str, cost: float, start: Point, train: Rows, held: Rows) -> Slopes:
    """sum_v weights_v max(0, 1 - signs_v z(x_v)) over held-out rows, and its derivative."""
    own, across = gram(kernel, train.inputs, train.inputs), gram(kernel, held.inputs, train.inputs)
    point, solve, step, residual = exact(own, cost * train.weights, train.signs, start)
    coefficients = train.signs * point.duals
    margins = 1 - held.signs * (across @ coefficients + point.intercept)
    slope = np.where(margins > 0, -held.weights * held.signs, 0)
    pull, total = across.T @ slope, float(np.sum(slope))
    if np.any(point.free):
        anchors = point.free
        adjoint = solve(np.append(pull[point.free], total))
        adjoint, last = adjoint[:-1], float(adjoint[-1])
    else:  # the intercept is the mean of what the two ends ask for
        anchors = ends(own, train.signs, point)
        adjoint, last = np.full(2, total / 2), 0.0
    bounded = np.where(point.top, coefficients, 0)  # proportional to C
    strength = -float(bounded @ (pull - own[anchors].T @ adjoint - last))
    gamma = np.zeros(train.inputs.shape[1])
    if kernel == "rbf":
        rows, factors = np.vstack([held.inputs, train.inputs[anchors]]), np.append(slope, -adjoint)
        gamma = _of_widths(np.vstack([across, own[anchors]]), factors, rows, coefficients, train.inputs)
    size = float(np.hypot(strength, np.linalg.norm(gamma)))
    error = size * step / max(float(np.linalg.norm(point.duals)), TINY)
    return Slopes(float(held.weights @ np.maximum(margins, 0)), strength, gamma, residual, error)


def _of_widths(
    matrix: np.ndarray, factors: np.ndarray, rows: np.ndarray, coefficients: np.ndarray, inputs: np.ndarray
) -> np.ndarray:
    """-sum_rj factors_r K_rj coefficients_j (x_rf - z_jf)^2 for each feature f: inputs are in units of gamma."""
    right, left = matrix @ coefficients, matrix.T @ factors
    squares = (factors * right) @ rows**2 + (coefficients * left) @ inputs**2
    products = np.sum(factors[:, None] * rows * (matrix @ (coefficients[:, None] * inputs)), axis=0)
    return 2 * products - squares
