"""The problems of the benchmark as arrays, in the forms that other packages take. Names of forms and their arrays:

ridge         X, y, ridge                  sum (X w - y)^2 / 2n + ridge ||w||^2 / 2
logistic      X, y (of -1, 1), ridge, l1   mean log(1 + exp(-y X w)) + ridge ||w||^2 / 2 + l1 ||w||_1
softmax       X, labels, ridge             mean cross-entropy + ridge ||W||^2 / 2, W (features, classes)
lasso         X, y, l1, ridge              sum (X w - y)^2 / 2n + l1 ||w||_1 + ridge ||w||^2 / 2
group lasso   X, y (n, tasks), l1          sum (X W - Y)^2 / (2 n tasks) + l1 sum of the norms of rows
nnls          X, y                         sum (X w - y)^2 / 2n, w >= 0
box           P, q, low, high              w'P w / 2 + q'w, low <= w <= high
simplex       P, q                         w'P w / 2 + q'w on the simplex
svm           X, y (one-hot), scale        scale ||X'(y - w)||^2 / 2 + <w, y>, rows of w on the simplex
isotonic      y                            sum (w - y)^2 / 2, w non-decreasing
qp            P, q, A, b, G, h, low, high  w'P w / 2 + q'w, A w = b, G w <= h, low <= w <= high; ``keep`` first unknowns
nonlinear     rates                        sum exp(-rates w), ||w||^2 <= 4, sum sin(w[:5]) <= 0.5
equilibrium   W, U                         z = tanh(z W' + U)
"""

from __future__ import annotations

from typing import Any

import numpy as np

Form = dict[str, Any]


def form(*names: str, **arrays: Any) -> Form:
    return {"forms": np.array(names)} | {name: np.asarray(array) for name, array in arrays.items()}


def qp(P: Any, q: Any, **parts: Any) -> Form:
    """The arrays of a quadratic program, what is not given being absent."""
    n = np.size(q)
    nothing = {"A": np.zeros((0, n)), "b": np.zeros(0), "G": np.zeros((0, n)), "h": np.zeros(0)}
    bounds = {"low": np.full(n, -np.inf), "high": np.full(n, np.inf), "keep": n}
    return nothing | bounds | {"P": np.asarray(P), "q": np.asarray(q)} | parts


def nonnegative(X: Any, y: Any) -> Form:
    X, y = np.asarray(X), np.asarray(y)
    n, columns = X.shape
    return form("nnls", "qp", X=X, y=y, **qp(X.T @ X / n, -X.T @ y / n, low=np.zeros(columns)))


def box(P: Any, q: Any, low: float, high: float) -> Form:
    n = np.size(q)
    return form("box", "qp", **qp(P, q, low=np.full(n, low), high=np.full(n, high)))


def simplex(P: Any, q: Any) -> Form:
    n = np.size(q)
    return form("simplex", "qp", **qp(P, q, A=np.ones((1, n)), b=np.ones(1), low=np.zeros(n)))


def isotonic(y: Any) -> Form:
    n = np.size(y)
    rows = np.eye(n)[:-1] - np.eye(n)[1:]
    return form("isotonic", "qp", y=y, **qp(np.eye(n), -np.asarray(y), G=rows, h=np.zeros(n - 1)))


def svm(X: Any, y: Any, scale: float) -> Form:
    """With V = X'(y - w) as unknowns of their own the quadratic program is sparse: (w, V)."""
    X, y = np.asarray(X), np.asarray(y)
    (samples, features), classes = X.shape, y.shape[1]
    first, second = samples * classes, features * classes
    lifted = np.concatenate([np.kron(X.T, np.eye(classes)), np.eye(second)], axis=1)
    simplexes = np.concatenate([np.kron(np.eye(samples), np.ones((1, classes))), np.zeros((samples, second))], axis=1)
    program = qp(
        np.diag(np.concatenate([np.zeros(first), np.full(second, scale)])),
        np.concatenate([y.ravel(), np.zeros(second)]),
        A=np.concatenate([lifted, simplexes]),
        b=np.concatenate([(X.T @ y).ravel(), np.ones(samples)]),
        low=np.concatenate([np.zeros(first), np.full(second, -np.inf)]),
        keep=first,
    )
    return form("svm", "qp", X=X, y=y, scale=scale, **program)
