"""Problems with an l1 penalty and many columns, solved on the few columns that have a coefficient.

Each lane has a working set of its own. After a solve the columns outside that violate the optimality condition come in,
until none does (Johnson and Guestrin, 2015). A column that is left out has the coefficient zero and no part in the
gradient, so the result is that of all columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, softmax

from bilevel.sklearn import homotopy
from bilevel.sklearn.folds import Folds
from bilevel.sklearn.homotopy import Paths
from bilevel.sklearn.lanes import DENSE, Lanes, Problem, features_for
from bilevel.sklearn.statements import Kind

WIDE = 128  # columns up to which a solve in all of them costs no more than the search for the few
FEWEST = 64  # columns of a working set
SLACK = 1e-7  # relative violation of the condition |gradient| <= weight that is rounding
ROUNDS = 50

# The derivative of each loss in its predictions z, (lanes, n, columns).
SLOPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "squared": lambda z, y: z - y.reshape(z.shape),
    "multi_task": lambda z, y: z - y.reshape(z.shape),
    "logistic": lambda z, y: expit(z) - y[..., None],
    "multinomial": lambda z, y: softmax(z, axis=2) - (y[..., None] == np.arange(z.shape[2])),
}


class OnColumns:
    """`Problem` on the columns that a lane needs; where a lane needs too many, on all."""

    def __init__(self, kind: Kind, folds: Folds, targets: np.ndarray, used: np.ndarray) -> None:
        self.kind, self.folds, self.targets, self.used = kind, folds, targets, used
        self.lanes, self.width = len(folds.train), FEWEST
        self.y = np.broadcast_to(targets, (self.lanes, *targets.shape)) if folds.targets is None else folds.targets
        self.params = np.zeros((self.lanes, kind.features + kind.tail, max(kind.columns, 1)))
        self.chosen = np.zeros((self.lanes, 0), int)  # (lanes, width)
        self.problem: Problem | None = None
        self.whole: Problem | None = None  # the problem on all columns, once a lane needs too many
        rows = int(np.max(np.sum(folds.train > 0, axis=1)))
        self.paths = Paths(kind, folds, self.y, used) if homotopy.applies(kind, rows) else None
        if kind.intercept and kind.loss in ("squared", "multi_task"):
            means = np.einsum("li,li...->l...", folds.train, self.y) / np.sum(folds.train, axis=1).reshape(
                -1, *(1,) * (self.y.ndim - 2)
            )
            self.params[:, -1] = means.reshape(self.lanes, -1)

    def __call__(self, logs: dict[str, np.ndarray]) -> Lanes:
        if self.paths is not None and self.whole is None and np.ptp(logs["l1"]) == 0:
            self.params = self.paths.at(float(np.exp(logs["l1"].flat[0])))
            there = self._there()
            if self.problem is not None and np.sum(np.take_along_axis(there, self.chosen, 1)) == np.sum(there):
                self._begin(self.problem)
            else:
                self._choose(self._violation(logs))
        elif self.problem is None and self.whole is None:
            self._choose(self._violation(logs))
        for _ in range(ROUNDS):
            if self.whole is not None:
                return self.whole(logs)
            assert self.problem is not None  # one of the two is set
            found = self.problem(self._of_chosen(logs))
            self._keep(found.params)
            violation = self._violation(logs)
            np.put_along_axis(violation, self.chosen, -np.inf, axis=1)
            broken = np.any(violation > SLACK, axis=1) & self.used & ~found.failed
            if not np.any(broken):
                return self._of_all(found, logs)
            self._choose(violation)
        raise FloatingPointError("the working sets of an l1 penalty did not settle: scale the columns of X")

    def _violation(self, logs: dict[str, np.ndarray]) -> np.ndarray:
        """By how much the gradient of a column without a coefficient is larger than its weight, relative: (lanes,
        features)."""
        kind, X = self.kind, self.folds.inputs
        tail = self.params[:, kind.features :].sum(axis=1, keepdims=True) if kind.intercept else 0.0
        there = np.flatnonzero(np.any(self.params[:, : kind.features] != 0, axis=(0, 2)))
        z = np.matmul(X[..., there], self.params[:, there]) + tail
        weights = self.folds.train / (
            np.sum(self.folds.train, axis=1, keepdims=True) if kind.reduction == "mean" else 1
        )
        slope = weights[..., None] * SLOPES[kind.loss](z, self.y)
        if X.ndim == 2:  # one product for all lanes reads X once
            flat = np.moveaxis(slope, 1, 2).reshape(-1, len(X))  # before X, whose transpose would be a copy
            gradient = np.abs(np.moveaxis((flat @ X).reshape(len(slope), -1, X.shape[1]), 1, 2))
        else:
            gradient = np.abs(np.matmul(np.swapaxes(X, -1, -2), slope))
        penalty = np.exp(logs["l1"])
        if kind.groups:
            gradient, penalty = np.linalg.norm(gradient, axis=2, keepdims=True), penalty[:, :1]
        return np.max(gradient / penalty, axis=2) - 1

    def _there(self) -> np.ndarray:
        """The columns with a coefficient, (lanes, features)."""
        return np.any(self.params[:, : self.kind.features] != 0, axis=2)

    def _choose(self, violation: np.ndarray) -> None:
        """Columns with a coefficient, those that have one elsewhere on a short path, so that the next strength needs no
        other columns, and those with the largest violation, in each lane."""
        there = self._there()
        wanted, spare = there, FEWEST // 4
        if self.paths is not None and np.max(np.sum(short := there | self.paths.columns(), axis=1)) <= WIDE:
            wanted, spare = short, 0
        self.width = max(self.width, features_for(int(np.max(np.sum(wanted, axis=1))) + spare))
        if self.width > min(DENSE, self.kind.features):
            self.whole = Problem(self.kind, self.folds, self.targets, self.used)
            return
        last = np.argpartition(np.where(wanted, -np.inf, -violation), self.width - 1, axis=1)
        self.chosen = np.sort(last[:, : self.width], axis=1)
        inputs = np.broadcast_to(self.folds.inputs, (self.lanes, *self.folds.inputs.shape[-2:]))
        part = self.folds._replace(inputs=np.take_along_axis(inputs, self.chosen[:, None, :], axis=2))
        self.problem = Problem(self.kind._replace(features=self.width), part, self.targets, self.used)
        self._begin(self.problem)

    def _begin(self, problem: Problem) -> None:
        """The next solve starts from these params."""
        own = np.take_along_axis(self.params[:, : self.kind.features], self.chosen[..., None], axis=1)
        problem.begin(np.concatenate([own, self.params[:, self.kind.features :]], axis=1))

    def _of_chosen(self, logs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: one[self.chosen] for name, one in logs.items()}

    def _keep(self, params: np.ndarray) -> None:
        params = params.reshape(self.lanes, -1, self.params.shape[2])
        self.params = np.zeros_like(self.params)
        np.put_along_axis(self.params, self.chosen[..., None], params[:, : self.width], axis=1)
        self.params[:, self.kind.features :] = params[:, self.width :]

    def _of_all(self, found: Lanes, logs: dict[str, np.ndarray]) -> Lanes:
        """The array with zeros at the columns that are left out."""
        gradients = {}
        for name, one in found.gradients.items():
            gradients[name] = np.zeros((self.lanes, self.kind.features, one.shape[2]))
            np.put_along_axis(gradients[name], self.chosen[..., None], one, axis=1)
        params = self.params if self.kind.columns else self.params[..., 0]
        return found._replace(gradients=gradients, params=params.copy(), logs=logs)
