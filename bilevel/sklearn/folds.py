"""The folds of a search as arrays of one shape: a lane each, with weights that say who trains and who validates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.class_weight import compute_class_weight

LARGEST = 2**28  # entries of a dense design: 2 GB


class Data(NamedTuple):
    """The data that all folds share."""

    targets: np.ndarray  # (n,) or (n, k); numbers of classes for a classifier
    weights: np.ndarray  # of the samples, (n,)
    classes: np.ndarray | None
    class_weight: Any


class Folds(NamedTuple):
    """One lane for each fold. A weight of zero takes a row out."""

    inputs: np.ndarray  # (n, features), or (lanes, n, features) where each fold has its own transformation
    train: np.ndarray  # weights (lanes, n), class weights included
    validation: np.ndarray  # weights (lanes, n)
    splits: list[tuple[np.ndarray, np.ndarray]]
    targets: np.ndarray | None = None  # (lanes, n) where each lane has its own
    linear: np.ndarray | None = None  # (lanes, n): coefficients of a linear term in the predictions
    constant: np.ndarray | None = None  # (lanes,): a constant term of the outer loss

    def among(self, lane: int, data: Data) -> Folds:
        """The folds without the validation rows of one lane, and that lane, which is then held out."""
        train, validation, splits = [], [], []
        own = self.train[lane] > 0
        for other, (given, chosen) in enumerate(self.splits):
            keep = np.ones(len(own), bool) if other == lane else own
            splits.append((given[keep[given]], chosen[keep[chosen]]))
            train.append(training_weights(splits[-1][0], data))
            validation.append(validation_weights(splits[-1][1], data))
        return Folds(self.inputs, np.stack(train), np.stack(validation), splits)


def splitter(cv: Any, criterion: str, fraction: float, data: Data, seed: Any) -> Any:
    """The object that splits, from what the user gave."""
    if criterion == "holdout" and (cv is None or isinstance(cv, int)):
        kind = ShuffleSplit if data.classes is None else StratifiedShuffleSplit
        return kind(n_splits=1, test_size=fraction, random_state=seed)
    return check_cv(cv, data.targets, classifier=data.classes is not None)


def folds_of(steps: Pipeline | None, X: Any, y: Any, splits: list, data: Data, n_jobs: int | None) -> Folds:
    """Splits as lanes. Raises ValueError where a fold lacks rows, or a class."""
    for number, (given, chosen) in enumerate(splits):
        _refuse(number, given, chosen, data)
    if steps is None:
        inputs = dense(X)
    else:
        rows = data.weights.shape[0]
        fits: Any = Parallel(n_jobs=n_jobs)(delayed(_transformed)(steps, X, y, *split, rows) for split in splits)
        found: list[np.ndarray] = list(fits)
        widths = {one.shape[1] for one in found}
        if len(widths) > 1:
            raise ValueError(
                f"The steps of the Pipeline give {sorted(widths)} columns in different folds: fix the number."
            )
        inputs = np.stack(found)
    train = np.stack([training_weights(given, data) for given, _ in splits])
    return Folds(inputs, train, np.stack([validation_weights(chosen, data) for _, chosen in splits]), splits)


def has_rows(train: np.ndarray, validation: np.ndarray, data: Data) -> bool:
    """Whether a lane with these weights trains on every class, and validates on something."""
    if not np.any(train > 0) or not np.any(validation > 0):
        return False
    return data.classes is None or len(np.unique(data.targets[train > 0])) == len(data.classes)


def _refuse(number: int, given: np.ndarray, chosen: np.ndarray, data: Data) -> None:
    for rows, role in ((given, "training"), (chosen, "validation")):
        if not np.sum(data.weights[rows]) > 0:
            raise ValueError(f"Fold {number} has no {role} sample of positive weight: choose other folds by cv.")
    if data.classes is not None:
        there = np.unique(data.targets[given][data.weights[given] > 0])
        if len(there) < len(data.classes):
            absent = [data.classes[c] for c in range(len(data.classes)) if c not in there]
            raise ValueError(
                f"The class {absent[0]} is absent from the training samples of fold {number}: use fewer folds, or "
                "StratifiedKFold."
            )


def training_weights(rows: np.ndarray, data: Data) -> np.ndarray:
    """The weights of the training rows, times the weights of their classes; zero elsewhere."""
    weights = validation_weights(rows, data)
    if data.class_weight is None or data.classes is None:
        return weights
    labels = data.classes[data.targets]
    each = compute_class_weight(
        data.class_weight, classes=data.classes, y=labels[rows], sample_weight=data.weights[rows]
    )
    return weights * each[data.targets]


def validation_weights(rows: np.ndarray, data: Data) -> np.ndarray:
    weights = np.zeros(len(data.weights))
    weights[rows] = data.weights[rows]
    return weights


def _transformed(steps: Pipeline, X: Any, y: Any, given: np.ndarray, chosen: np.ndarray, rows: int) -> np.ndarray:
    """All rows of X after steps that were fitted on the training rows of a fold; rows in neither part are zero."""
    own: Any = clone(steps)
    train = dense(own.fit_transform(_safe_indexing(X, given), _safe_indexing(y, given)))
    inputs = np.zeros((rows, train.shape[1]))
    inputs[given] = train
    inputs[chosen] = dense(own.transform(_safe_indexing(X, chosen)))
    return inputs


def dense(X: Any) -> np.ndarray:
    """X as a dense array of float64. Raises ValueError where that would be too large."""
    if issparse(X) and X.shape[0] * X.shape[1] > LARGEST:
        raise ValueError(
            f"X is sparse with {X.shape[0]} x {X.shape[1]} entries, and HypergradientSearchCV makes it dense: select "
            "columns first, or state the problem as a bl.Task with bl.HostMatrix."
        )
    values: Any = X.toarray() if issparse(X) else X
    return np.asarray(check_array(values), np.float64)


def in_units_of_gamma(folds: Folds, estimator: Any, data: Data) -> Folds:
    """Inputs times the root of a kernel's fixed gamma, as each fold's training rows determine it."""
    inputs = folds.inputs if folds.inputs.ndim == 3 else np.tile(folds.inputs, (len(folds.train), 1, 1))
    weights = (validation_weights(given, data) for given, _ in folds.splits)
    pairs = zip(inputs, weights, strict=True)
    roots = np.sqrt([gamma_of(estimator.gamma, one, own) for one, own in pairs])
    return folds._replace(inputs=inputs * roots[:, None, None])


def gamma_of(stated: Any, inputs: np.ndarray, weights: np.ndarray) -> float:
    """The number that scikit-learn's rules for a gamma mean.

    For "scale" a row counts as often as its weight says, because weights stand for repeated rows.
    """
    width = inputs.shape[1]
    if stated == "scale":
        spread = float(weights @ np.mean((inputs - np.average(inputs, weights=weights, axis=0).mean()) ** 2, axis=1))
        return float(np.sum(weights)) / (width * spread) if spread else 1.0
    return 1 / width if stated in (None, "auto") else float(stated)
