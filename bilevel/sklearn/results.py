"""The attributes of a fitted search, in the forms that GridSearchCV gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn import config_context
from sklearn.base import RegressorMixin, clone
from sklearn.metrics import check_scoring, r2_score
from sklearn.utils import _safe_indexing

from bilevel.sklearn.descent import Step
from bilevel.sklearn.folds import Data, Folds
from bilevel.sklearn.lanes import Lanes
from bilevel.sklearn.refit import in_units, machine, model
from bilevel.sklearn.space import Space


class Held(NamedTuple):
    """A fold's validation rows. Many steps are scored on them, and they are taken out of all rows once."""

    inputs: np.ndarray
    targets: Any


def held(lane: int, folds: Folds, data: Data) -> Held:
    inputs = folds.inputs if folds.inputs.ndim == 2 else folds.inputs[lane]
    rows = folds.splits[lane][1]
    return Held(inputs[rows], _safe_indexing(_targets(data), rows))


def score_of(scorer: Any, own: Any, lanes: Lanes, lane: int, folds: Folds, data: Data, rows: Held) -> float:
    """The score of a fold's model on its validation rows.

    ``own`` is a clone of the estimator, which becomes that model. One serves all folds and steps, because a clone takes
    longer than a score."""
    inputs = rows.inputs
    if "strength" in lanes.logs:
        inputs = in_units(own, lanes.logs, folds.inputs if folds.inputs.ndim == 2 else folds.inputs[lane])
        machine(own, lanes.logs, inputs, _targets(data), folds.train[lane])
        inputs = inputs[folds.splits[lane][1]]
    else:
        model(own, lanes.params[lane], data.classes)
    return float(scorer(own, inputs, rows.targets))


def explains_variance(scorer: Any, own: Any, rows: Held) -> bool:
    """Whether the score is R^2 of the predictions of a linear model: those of all steps are then scored in one call,
    because a call takes longer than the arithmetic of a score."""
    plain = isinstance(own, RegressorMixin) and type(own).score is RegressorMixin.score and not hasattr(own, "kernel")
    return plain and type(scorer) is type(check_scoring(own)) and rows.targets.ndim == 1


def variance_explained(own: Any, solved: list[np.ndarray], rows: Held) -> np.ndarray:
    """R^2 on held-out rows of each of the models with the coefficients ``solved``."""
    coefficients, intercepts = np.empty((len(solved), rows.inputs.shape[1])), np.empty(len(solved))
    for number, params in enumerate(solved):
        model(own, params, None)
        coefficients[number], intercepts[number] = np.ravel(own.coef_), np.ravel(own.intercept_)[0]
    predictions = coefficients @ rows.inputs.T + intercepts[:, None]
    # A step's numbers lie side by side, so that they are summed in the order of a single step. In another order the
    # mean of equal targets is off by rounding where the step's own is not, and their R^2 is -1e30 in place of 0.
    targets = np.tile(rows.targets, (len(solved), 1))
    scores = r2_score(targets.T, predictions.T, multioutput="raw_values")
    return np.broadcast_to(scores, len(solved))  # of a single row it is one NaN for all


def _targets(data: Data) -> np.ndarray:
    """Targets as the user gave them."""
    return data.targets if data.classes is None else data.classes[data.targets]


@dataclass(frozen=True)
class Report:
    """All steps of a search and the one that was chosen."""

    steps: list[Step]
    best: Step
    space: Space
    folds: Folds
    data: Data
    last: Any
    scorer: Any
    prefix: str

    def attributes(self) -> dict[str, Any]:
        best = next(number for number, step in enumerate(self.steps) if step is self.best)
        table = self.table()
        return {
            "best_index_": best,
            "best_params_": self.params(self.best),
            "best_score_": float(table["mean_test_score"][best]),
            "cv_results_": table,
            "n_iter_": len(self.steps),
            "n_splits_": len(self.folds.splits),
            "history_": [self.row(step) for step in self.steps],
            "hypergradient_error_": float(np.mean(self.best.lanes.errors)),
        }

    def params(self, step: Step) -> dict[str, Any]:
        return {self.prefix + name: value for name, value in self.space.values(step.u).items()}

    def row(self, step: Step) -> dict[str, Any]:
        return {
            "loss": step.loss,
            "gradient_norm": float(np.linalg.norm(step.gradient)),
            "error_estimate": float(np.mean(step.lanes.errors)),
            "seconds": step.seconds,
            "params": self.params(step),
        }

    def table(self) -> dict[str, Any]:
        lanes = range(len(self.folds.splits))
        own, rows = clone(self.last), [held(lane, self.folds, self.data) for lane in lanes]
        scored = lambda step, lane: score_of(self.scorer, own, step.lanes, lane, self.folds, self.data, rows[lane])
        with config_context(assume_finite=True, skip_parameter_validation=True):  # checked, and checks take longest
            if explains_variance(self.scorer, own, rows[0]):
                solved = [[step.lanes.params[lane] for step in self.steps] for lane in lanes]
                scores = np.stack([variance_explained(own, solved[lane], rows[lane]) for lane in lanes], axis=1)
            else:
                scores = np.array([[scored(step, lane) for lane in lanes] for step in self.steps])
        means = np.mean(scores, axis=1)
        order = np.where(np.isnan(means), np.inf, -means)  # R^2 of one row is NaN; the last ranks, as in GridSearchCV
        params = [self.params(step) for step in self.steps]
        return {
            "params": params,
            **{f"param_{name}": _column([one[name] for one in params]) for name in params[0]},
            "mean_fit_time": np.array([step.seconds for step in self.steps]) / len(lanes),
            **{f"split{lane}_test_score": scores[:, lane] for lane in lanes},
            "mean_test_score": means,
            "std_test_score": np.std(scores, axis=1),
            "rank_test_score": rankdata(order, method="min").astype(np.int32),
            "mean_test_loss": np.array([step.loss for step in self.steps]),
        }


def _column(values: list) -> np.ma.MaskedArray:
    column: Any = np.ma.MaskedArray(np.empty(len(values), object), mask=False)
    for number, value in enumerate(values):
        column[number] = value
    return column
