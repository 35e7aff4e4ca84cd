"""SciPy: quasi-Newton and Newton methods with exact gradients, its special solvers, and its root finders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.optimize as package
from protocol import CannotDo, Run, serve

MOST = 100_000


def ridge(a: dict) -> tuple:
    X, y, weight = a["X"], a["y"], float(a["ridge"])

    def both(w: np.ndarray) -> tuple:
        gap = X @ w - y
        return 0.5 * gap @ gap / len(y) + 0.5 * weight * w @ w, X.T @ gap / len(y) + weight * w

    return both, (X.shape[1],), None


def logistic(a: dict) -> tuple:
    X, y, weight = a["X"], a["y"], float(a["ridge"])
    if float(a["l1"]) > 0:
        raise CannotDo("SciPy minimises smooth losses")

    def both(w: np.ndarray) -> tuple:
        margin = y * (X @ w)
        pull = -y / (1 + np.exp(margin))
        return np.mean(np.logaddexp(0, -margin)) + 0.5 * weight * w @ w, X.T @ pull / len(y) + weight * w

    return both, (X.shape[1],), None


def softmax(a: dict) -> tuple:
    X, labels, weight = a["X"], a["labels"], float(a["ridge"])
    hot, shape = np.eye(labels.max() + 1)[labels], (X.shape[1], labels.max() + 1)

    def both(flat: np.ndarray) -> tuple:
        w = flat.reshape(shape)
        z = X @ w
        z = z - z.max(axis=1, keepdims=True)
        log = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        slope = X.T @ (np.exp(log) - hot) / len(X) + weight * w
        return -np.mean(np.sum(hot * log, axis=1)) + 0.5 * weight * np.sum(w**2), slope.ravel()

    return both, shape, None


def box(a: dict) -> tuple:
    P, q = a["P"], a["q"]
    return lambda w: (0.5 * w @ (P @ w) + q @ w, P @ w + q), q.shape, package.Bounds(a["low"], a["high"])


def smooth(a: dict, problem: Callable[[dict], tuple], method: str) -> Run:
    both, shape, bounds = problem(a)
    start = np.zeros(int(np.prod(shape)))
    scale = np.max(np.abs(both(start)[1]))
    options = {
        "L-BFGS-B": lambda tol: {"gtol": tol * scale, "ftol": 1e-18, "maxcor": 20, "maxfun": MOST, "maxiter": MOST},
        "Newton-CG": lambda tol: {"xtol": tol, "maxiter": MOST},
        "TNC": lambda tol: {"gtol": tol * scale, "ftol": 0.0, "xtol": 0.0, "maxfun": MOST},
    }[method]

    def run(tol: float) -> dict:
        found = package.minimize(both, start, jac=True, method=method, bounds=bounds, options=options(tol))
        return {"params": found.x.reshape(shape)}

    return run


def nnls(a: dict) -> Run:
    return lambda tol: {"params": package.nnls(a["X"], a["y"], maxiter=MOST)[0]}


def isotonic(a: dict) -> Run:
    return lambda tol: {"params": package.isotonic_regression(a["y"]).x}


def program(a: dict) -> Run:
    """A small quadratic program by SLSQP, whose multipliers are the ones of the rows."""
    P, q, A, b, G, h = (a[name] for name in "PqAbGh")
    if q.size > 200:
        raise CannotDo("SLSQP is for small programs")
    rules = []
    if b.size:
        rules.append({"type": "eq", "fun": lambda w: A @ w - b, "jac": lambda w: A})
    if h.size:
        rules.append({"type": "ineq", "fun": lambda w: h - G @ w, "jac": lambda w: -G})
    bounds = None if np.all(np.isinf(a["low"]) & np.isinf(a["high"])) else package.Bounds(a["low"], a["high"])

    def run(tol: float) -> dict:
        found = package.minimize(
            lambda w: (0.5 * w @ (P @ w) + q @ w, P @ w + q), np.zeros(q.size), jac=True, method="SLSQP",
            bounds=bounds, constraints=rules, options={"ftol": tol, "maxiter": 1000},
        )  # fmt: skip
        return multipliers(found, b.size, h.size)

    return run


def multipliers(found: package.OptimizeResult, equalities: int, inequalities: int) -> dict:
    duals = np.asarray(found.multipliers)
    return {
        "params": found.x,
        "equality_dual": -duals[:equalities],
        "inequality_dual": duals[equalities : equalities + inequalities],
    }


def nonlinear(a: dict) -> Run:
    rates = a["rates"]

    def rows(w: np.ndarray) -> np.ndarray:
        return np.array([4.0 - w @ w, 0.5 - np.sum(np.sin(w[:5]))])

    def slopes(w: np.ndarray) -> np.ndarray:
        bend = np.zeros_like(w)
        bend[:5] = -np.cos(w[:5])
        return np.stack([-2 * w, bend])

    def both(w: np.ndarray) -> tuple:
        terms = np.exp(-rates * w)
        return terms.sum(), -rates * terms

    def run(tol: float) -> dict:
        found = package.minimize(
            both, np.zeros(rates.size), jac=True, method="SLSQP", options={"ftol": tol, "maxiter": 1000},
            constraints=[{"type": "ineq", "fun": rows, "jac": slopes}],
        )  # fmt: skip
        return multipliers(found, 0, 2)

    return run


def equilibrium(a: dict, method: str) -> Run:
    W, U = a["W"], a["U"]

    def gap(z: np.ndarray) -> np.ndarray:
        return np.tanh(z @ W.T + U) - z

    first = np.linalg.norm(gap(np.zeros_like(U)))

    def run(tol: float) -> dict:
        norm = lambda v: np.linalg.norm(v)
        options = {"fatol": tol * first, "tol_norm": norm, "maxiter": 10_000}
        return {"params": package.root(gap, np.zeros_like(U), method=method, options=options).x}

    return run


QUASI = ("L-BFGS-B", "Newton-CG")
PEER = {
    "ridge": {name: partial(smooth, problem=ridge, method=name) for name in QUASI},
    "logistic": {name: partial(smooth, problem=logistic, method=name) for name in QUASI},
    "softmax": {name: partial(smooth, problem=softmax, method=name) for name in QUASI},
    "box": {name: partial(smooth, problem=box, method=name) for name in ("L-BFGS-B", "TNC")},
    "nnls": {"nnls": nnls},
    "isotonic": {"isotonic_regression": isotonic},
    "qp": {"SLSQP": program},
    "nonlinear": {"SLSQP": nonlinear},
    "equilibrium": {f"root {name}": partial(equilibrium, method=name) for name in ("anderson", "krylov")},
}

if __name__ == "__main__":
    serve(PEER)
