"""The arguments of the user, checked by scikit-learn's own functions before any work."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.metrics import get_scorer_names
from sklearn.pipeline import Pipeline
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    _check_y,
    check_consistent_length,
    validate_data,
)

from bilevel.sklearn.estimators import Family
from bilevel.sklearn.folds import Data, Folds
from bilevel.sklearn.statements import Kind


class Rows(NamedTuple):
    """The rows of a search."""

    given: Any  # X as the user gave it, with its column names
    X: Any
    y: np.ndarray
    weights: np.ndarray


def names(search: Any, steps: Pipeline | None, found: Rows, stated: dict[str, Any]) -> list[str] | None:
    """The names of the columns that the estimator gets: those of X, or those that the steps before it give.

    The steps are fitted for that on all rows, if the space has names and the steps know what they give."""
    if steps is None:
        own = getattr(search, "feature_names_in_", None)
        return None if own is None else list(own)
    groups = [group for one in stated.values() if isinstance(one, list) for group in one if isinstance(group, list)]
    if not any(isinstance(member, str) for group in groups for member in group):
        return None
    unfitted: Any = clone(steps)
    fitted = unfitted.fit(found.X, found.y)
    try:
        return list(fitted.get_feature_names_out())
    except (AttributeError, ValueError):  # a step without that method, or that got no names
        return None


def scorers() -> list[str]:
    """The names that ``scoring`` may be."""
    return get_scorer_names()


def prefix(estimator: Any) -> str:
    """The prefix of the names of the parameters in a Pipeline."""
    return f"{estimator.steps[-1][0]}__" if isinstance(estimator, Pipeline) else ""


def last_of(estimator: Any) -> Any:
    """The estimator, or the last step of a Pipeline."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def parts(estimator: Any, space: dict[str, Any]) -> tuple[Pipeline | None, Any, dict[str, Any]]:
    """The steps before the estimator, the estimator, and the space by its own names of the parameters."""
    if not isinstance(estimator, Pipeline):
        return None, estimator, space
    start = prefix(estimator)
    for name in space:
        if not name.startswith(start):
            raise ValueError(
                f"{name!r} is not a parameter of the last step of the Pipeline: its parameters begin with {start!r}."
            )
    steps = estimator[:-1] if len(estimator.steps) > 1 else None
    return steps, estimator.steps[-1][1], {name.removeprefix(start): value for name, value in space.items()}


def rows(search: Any, X: Any, y: Any, sample_weight: Any, family: Family, piped: bool) -> Rows:
    """X and y after scikit-learn's checks, which also set ``n_features_in_`` and ``feature_names_in_``."""
    if y is None:
        raise ValueError("HypergradientSearchCV requires y to be passed, but the target y is None.")
    several = family.targets != "one"
    if piped:  # the steps before the estimator may take data that no array of numbers can hold
        _check_feature_names(search, X, reset=True)
        _check_n_features(search, X, reset=True)
        checked = X
        y = _check_y(y, multi_output=several, y_numeric=not family.classifies)
        check_consistent_length(X, y)
    else:
        checked, y = validate_data(
            search,
            X,
            y,
            accept_sparse=("csr", "csc"),
            dtype=np.float64,
            multi_output=several,
            y_numeric=not family.classifies,
            ensure_min_samples=2,
        )
    if family.classifies:
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
    elif np.any(y < 0) and family.loss == "poisson":
        raise ValueError("Some value(s) of y are out of the valid range of PoissonRegressor: counts are not negative.")
    if family.targets == "many" and np.ndim(y) == 1:
        raise ValueError("For mono-task outputs, use Lasso: MultiTaskLasso takes a y of two axes.")
    weights = _check_sample_weight(sample_weight, y if piped else checked, dtype=np.float64, ensure_non_negative=True)
    return Rows(X, checked, y, weights)


def data(found: Rows, last: Any, family: Family) -> Data:
    """Targets as the losses take them."""
    if not family.classifies:
        return Data(np.asarray(found.y, np.float64), found.weights, None, None)
    classes, labels = np.unique(found.y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"The targets hold one class, {classes[0]}: a classifier needs samples of at least 2 classes.")
    return Data(labels, found.weights, classes, last.class_weight)


def kind(last: Any, family: Family, folds: Folds, data: Data) -> Kind:
    """The statement of a fold's problem; which penalties it has follows from the space."""
    loss, columns = family.loss, 0
    if family.classifies and data.classes is not None and len(data.classes) > 2:
        loss, columns = "multinomial" if loss == "logistic" else loss, len(data.classes)
    elif data.targets.ndim == 2:
        columns = data.targets.shape[1]
    intercept, features = bool(getattr(last, "fit_intercept", False)), folds.inputs.shape[-1]
    kernel = last.kernel if family.kernel else ""
    return Kind(loss, family.reduction, intercept, features, columns, False, True, family.setting(last), kernel)
