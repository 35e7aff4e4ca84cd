"""Coefficients as scikit-learn's estimators: the models of the folds, and the one that is fitted on all rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import HuberRegressor, Lasso
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from sklearn.utils.validation import has_fit_parameter

from bilevel.sklearn.folds import dense, gamma_of
from bilevel.sklearn.homotopy import LARGEST, Path
from bilevel.sklearn.machines import MOST, tolerance
from bilevel.sklearn.space import Space


def model(own: Any, params: np.ndarray, classes: np.ndarray | None) -> None:
    """Gives a linear estimator these coefficients, the last row of ``params`` being the intercept."""
    write(own, params)
    own.n_features_in_ = own.coef_.shape[-1]
    if classes is not None:
        own.classes_ = classes
    if hasattr(own, "_get_loss"):  # PoissonRegressor predicts through the link of its loss
        own._base_loss = own._get_loss()


def machine(own: Any, logs: dict[str, np.ndarray], inputs: np.ndarray, targets: Any, weights: np.ndarray) -> None:
    """Fits a kernel machine on the rows of positive weight, at these log penalties.

    The inputs of an rbf kernel are those of `in_units`."""
    strength, rows = float(np.exp(logs["strength"][0, 0])), weights > 0
    own.set_params(**({"C": 1 / strength} if hasattr(own, "C") else {"alpha": strength}))
    if hasattr(own, "class_weight"):
        own.set_params(class_weight=None)  # the weights include the class weights
    if own.kernel == "rbf":
        own.set_params(gamma=1.0)
    own.fit(inputs[rows], targets[rows], sample_weight=weights[rows])


def in_units(estimator: Any, logs: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """The inputs of a kernel machine, times the roots of gamma for an rbf kernel."""
    return inputs * np.exp(0.5 * logs["gamma"][:, 0]) if estimator.kernel == "rbf" else inputs


def ard(gamma: np.ndarray) -> RBF:
    """exp(-sum_f gamma_f (x_f - z_f)^2) as a kernel that KernelRidge and SVC take."""
    scales: Any = 1 / np.sqrt(2 * gamma)
    return RBF(length_scale=scales, length_scale_bounds="fixed")


def write(estimator: Any, params: np.ndarray) -> None:
    """Puts coefficients into an estimator, in the shapes that scikit-learn gives them."""
    if isinstance(estimator, HuberRegressor):
        estimator.scale_, params = float(params[-1]), params[:-1]
    coefficients, intercept = (
        (params[:-1], params[-1]) if estimator.fit_intercept else (params, np.zeros(params.shape[1:]))
    )
    single = params.ndim == 1 and not is_classifier(estimator)
    estimator.coef_ = coefficients if single else np.atleast_2d(coefficients.T)
    estimator.intercept_ = float(intercept) if single else np.atleast_1d(intercept)


def scales(space: Space, u: np.ndarray) -> np.ndarray | None:
    """Factors of the columns, (features,), that turn one common penalty into each column's own.

    None where no factors do that: with two kinds of penalty, or with one penalty for each class.
    """
    if (space.l1 and space.l2) or (
        space.shape[1] > 1 and space.strength is not None and space.strength.index.shape[1] > 1
    ):
        return None
    logs = space.penalties(u)["l1" if space.l1 else "l2"][: space.shape[0], 0]
    return np.exp((np.mean(logs) - logs) / (1 if space.l1 else 2))


def common(space: Space, u: np.ndarray) -> dict[str, float]:
    """One value of each parameter, the geometric mean of its unknowns."""
    means = [np.full(one.size, np.mean(part)) for one, part in zip(space.parameters, space.split(u), strict=True)]
    values = space.values(np.concatenate(means))
    return {name: float(np.ravel(value)[0]) for name, value in values.items()}


def tightly(machine: SVC, X: Any, y: np.ndarray, **given: Any) -> None:
    """Fits it to a tolerance at which weighted rows give the same result as repeated rows.

    Where rounding or the number of steps forbids that, it is fitted to its own tolerance.
    """
    largest = float(np.max(given.get("sample_weight", 1.0))) * machine.C * len(y)
    size = float(np.max(np.sum(dense(X) ** 2, axis=1))) if machine.kernel == "linear" else 1.0  # of the kernel
    own = {name: getattr(machine, name) for name in ("tol", "max_iter", "gamma")}
    machine.set_params(tol=min(machine.tol, tolerance(largest, size)), max_iter=MOST)
    if "sample_weight" in given:
        machine.set_params(gamma=gamma_of(machine.gamma, dense(X), given["sample_weight"]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            machine.fit(X, y, **given)
        machine.set_params(**own)
    except ConvergenceWarning:
        machine.set_params(**own | {"gamma": machine.gamma}).fit(X, y, **given)
        machine.set_params(**own)


def from_its_path(lasso: Lasso, X: Any, y: np.ndarray, **given: Any) -> None:
    """Fits it from the solution that its path has at its strength, where there are more columns than rows: its own
    coordinate descent needs thousands of rounds there from zero."""
    inputs = X if issparse(X) else dense(X)  # a list and what is no array have no shape
    rows, features = inputs.shape
    if y.ndim == 1 and rows < features and rows**2 * features <= LARGEST and not issparse(X) and not lasso.warm_start:
        weights = given.get("sample_weight", np.ones(rows))
        columns = np.ascontiguousarray(inputs.T)
        start = Path(columns, np.asarray(y, float), weights, lasso.fit_intercept).at(lasso.alpha)
        lasso.coef_ = start[:features]
        lasso.set_params(warm_start=True).fit(X, y, **given)
        lasso.set_params(warm_start=False)
    else:
        lasso.fit(X, y, **given)


def scaled(X: Any, factors: np.ndarray) -> Any:
    """The columns of X times factors; a data frame stays one, so that its names are seen."""
    if issparse(X):
        return X.multiply(factors[None, :]).tocsr()
    return X * factors if hasattr(X, "columns") else np.asarray(X, float) * factors


def refitted(estimator: Any, space: Space, u: np.ndarray, rows: Any, weighted: bool, solve: Any) -> Any:
    """A fitted clone of the estimator or Pipeline. One penalty for each column is fitted on scaled columns, and the
    coefficients are put back on the original ones. Where no scaling states the penalties, the coefficients come from
    ``solve(X)``, the library's own solution on all rows. So do the coefficients of HuberRegressor, because it stops
    where the same rows with other weights give other coefficients in the fourth digit."""
    own: Any = clone(estimator)
    last: Any = own.steps[-1][1] if isinstance(own, Pipeline) else own
    last.set_params(**common(space, u))
    X, y = rows.given, rows.y
    if isinstance(own, Pipeline) and len(own.steps) > 1:
        X = own[:-1].fit_transform(X, y)
    if space.gamma is not None and space.gamma.many:
        last.set_params(kernel=ard(np.exp(space.penalties(u)["gamma"][:, 0])))
    linear = space.many and not space.family.kernel
    kind: Any = type(last)
    factors = scales(space, u) if linear and kind is not HuberRegressor else None
    takes = has_fit_parameter(last, "sample_weight")  # MultiTaskLasso does not
    given = {"sample_weight": rows.weights} if weighted and takes else {}
    fit = tightly if kind is SVC else from_its_path if kind is Lasso else kind.fit
    fit(last, X if factors is None else scaled(X, factors), y, **given)
    if factors is not None and (takes or not weighted):
        last.coef_ = last.coef_ * factors
    elif linear or (weighted and not takes) or kind is HuberRegressor:
        write(last, solve(X))
        if kind is HuberRegressor:
            last.outliers_ = np.abs(y - last.predict(X)) > last.scale_ * last.epsilon
    return own
