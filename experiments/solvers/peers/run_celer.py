"""celer: the lasso and its relatives, by working sets with dual extrapolation."""

from __future__ import annotations

import celer as package
import numpy as np
from protocol import CannotDo, Run, serve


def lasso(arrays: dict) -> Run:
    X, y = np.asfortranarray(arrays["X"]), arrays["y"]
    total = float(arrays["l1"] + arrays["ridge"])
    share = float(arrays["l1"]) / total

    def run(tol: float) -> dict:
        common = {"fit_intercept": False, "tol": tol, "max_iter": 1000}
        model = package.ElasticNet(total, l1_ratio=share, **common) if share < 1 else package.Lasso(total, **common)
        return {"params": model.fit(X, y).coef_}

    return run


def logistic(arrays: dict) -> Run:
    if float(arrays["ridge"]) > 0:
        raise CannotDo("celer has no ridge term for the logistic loss")
    X, y = np.asfortranarray(arrays["X"]), arrays["y"]
    C = 1 / (len(y) * float(arrays["l1"]))
    return lambda tol: {"params": package.LogisticRegression(C, tol=tol, max_iter=1000).fit(X, y).coef_[0]}


def multitask(arrays: dict) -> Run:
    X, y = np.asfortranarray(arrays["X"]), np.asfortranarray(arrays["y"])
    alpha = float(arrays["l1"]) * y.shape[1]

    def run(tol: float) -> dict:
        model = package.MultiTaskLasso(alpha, fit_intercept=False, tol=tol, max_iter=1000)
        return {"params": model.fit(X, y).coef_.T}

    return run


if __name__ == "__main__":
    serve({"lasso": {"celer": lasso}, "logistic": {"celer": logistic}, "group lasso": {"celer": multitask}})
