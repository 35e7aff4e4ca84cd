"""Coefficients as scikit-learn's estimators: the models of the folds, and the one that is fitted on all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from bilevel.sklearn.space import Space


def model(estimator: Any, params: np.ndarray, classes: np.ndarray | None) -> Any:
    """A clone of a linear estimator that has these coefficients, the last row of ``params`` being the intercept."""
    own: Any = clone(estimator)
    write(own, params)
    own.n_features_in_ = own.coef_.shape[-1]
    if classes is not None:
        own.classes_ = classes
    if hasattr(own, "_get_loss"):  # PoissonRegressor predicts through the link of its loss
        own._base_loss = own._get_loss()
    return own


def write(estimator: Any, params: np.ndarray) -> None:
    """Puts coefficients into an estimator, in the shapes that scikit-learn gives them."""
    coefficients, intercept = (
        (params[:-1], params[-1]) if estimator.fit_intercept else (params, np.zeros(params.shape[1:]))
    )
    linear = params.ndim == 1 and not hasattr(estimator, "predict_proba")
    estimator.coef_ = coefficients if linear else np.atleast_2d(coefficients.T)
    estimator.intercept_ = float(intercept) if linear else np.atleast_1d(intercept)


def scales(space: Space, u: np.ndarray) -> np.ndarray | None:
    """Factors of the columns by which one penalty for all is each column's own, (features,). None where no factors do
    that: two kinds of penalty, or one a class."""
    if (space.l1 and space.l2) or (
        space.shape[1] > 1 and space.strength is not None and space.strength.index.shape[1] > 1
    ):
        return None
    logs = space.penalties(u)["l1" if space.l1 else "l2"][:, 0]
    return np.exp((np.mean(logs) - logs) / (1 if space.l1 else 2))


def common(space: Space, u: np.ndarray) -> dict[str, float]:
    """One value of each parameter, the geometric mean of its unknowns."""
    means = [np.full(one.size, np.mean(part)) for one, part in zip(space.parameters, space.split(u), strict=True)]
    values = space.values(np.concatenate(means))
    return {name: float(np.ravel(value)[0]) for name, value in values.items()}


def scaled(X: Any, factors: np.ndarray) -> Any:
    """The columns of X times factors; a data frame stays one, so that its names are seen."""
    if issparse(X):
        return X.multiply(factors[None, :]).tocsr()
    return X * factors if hasattr(X, "columns") else np.asarray(X, float) * factors


def refitted(estimator: Any, space: Space, u: np.ndarray, rows: Any, weighted: bool, solve: Any) -> Any:
    """A fitted clone of the estimator or Pipeline. One penalty for each column is fitted on scaled columns, and the
    coefficients are put back on the original ones. Penalties that no scaling states are those of ``solve(X)``, the
    library's own solution on all rows."""
    own: Any = clone(estimator)
    last: Any = own.steps[-1][1] if isinstance(own, Pipeline) else own
    last.set_params(**common(space, u))
    X, y = rows.given, rows.y
    if isinstance(own, Pipeline) and len(own.steps) > 1:
        X = own[:-1].fit_transform(X, y)
    factors = scales(space, u) if space.many else None
    given = {"sample_weight": rows.weights} if weighted else {}
    last.fit(X if factors is None else scaled(X, factors), y, **given)
    if factors is not None:
        last.coef_ = last.coef_ * factors
    elif space.many:
        write(last, solve(X))
    return own
