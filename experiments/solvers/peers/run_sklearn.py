"""scikit-learn, with each of its solvers that can do the problem."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import sklearn.linear_model as package
from protocol import CannotDo, Run, serve
from sklearn.isotonic import isotonic_regression

MOST = 1_000_000


def ridge(arrays: dict, solver: Any) -> Run:
    X, y = arrays["X"], arrays["y"]
    alpha = len(y) * float(arrays["ridge"])

    def run(tol: float) -> dict:
        model = package.Ridge(alpha, fit_intercept=False, solver=solver, tol=tol, max_iter=MOST)
        return {"params": model.fit(X, y).coef_}

    return run


def logistic(arrays: dict, solver: Any) -> Run:
    X = arrays["X"]
    y = arrays["labels"] if "labels" in arrays else arrays["y"]
    l1, weight = float(arrays.get("l1", 0)), float(arrays["ridge"])
    if l1 and weight:
        raise CannotDo("both penalties at once: saga alone would do")
    if l1 and solver in ("lbfgs", "newton-cholesky"):
        raise CannotDo("smooth penalties only")
    C = 1 / (len(y) * (l1 or weight))

    def run(tol: float) -> dict:
        model = package.LogisticRegression(
            C=C, l1_ratio=1.0 if l1 else 0.0, fit_intercept=False, solver=solver, tol=tol, max_iter=5_000
        )
        coefficients = model.fit(X, y).coef_
        return {"params": coefficients.T if "labels" in arrays else coefficients[0]}

    return run


def lasso(arrays: dict, precompute: bool) -> Run:
    X, y = np.asfortranarray(arrays["X"]), arrays["y"]
    total = float(arrays["l1"] + arrays["ridge"])
    share = float(arrays["l1"]) / total

    def run(tol: float) -> dict:
        model = package.ElasticNet(
            total, l1_ratio=share, fit_intercept=False, tol=tol, max_iter=MOST, precompute=precompute
        )
        return {"params": model.fit(X, y).coef_}

    return run


def multitask(arrays: dict) -> Run:
    X, y = np.asfortranarray(arrays["X"]), np.asfortranarray(arrays["y"])
    alpha = float(arrays["l1"]) * y.shape[1]
    common = {"fit_intercept": False, "max_iter": MOST}
    return lambda tol: {"params": package.MultiTaskLasso(alpha, tol=tol, **common).fit(X, y).coef_.T}


def nonnegative(arrays: dict) -> Run:
    X, y = arrays["X"], arrays["y"]
    return lambda tol: {"params": package.LinearRegression(fit_intercept=False, positive=True).fit(X, y).coef_}


def isotonic(arrays: dict) -> Run:
    return lambda tol: {"params": isotonic_regression(arrays["y"])}


PEER = {
    "ridge": {f"Ridge {name}": partial(ridge, solver=name) for name in ("cholesky", "lsqr", "sag")},
    "logistic": {
        f"LogisticRegression {name}": partial(logistic, solver=name)
        for name in ("lbfgs", "newton-cholesky", "liblinear", "saga")
    },
    "softmax": {f"LogisticRegression {name}": partial(logistic, solver=name) for name in ("lbfgs", "newton-cholesky")},
    "lasso": {"ElasticNet": partial(lasso, precompute=False), "ElasticNet Gram": partial(lasso, precompute=True)},
    "group lasso": {"MultiTaskLasso": multitask},
    "nnls": {"LinearRegression positive": nonnegative},
    "isotonic": {"isotonic_regression": isotonic},
}

if __name__ == "__main__":
    serve(PEER)
