"""HOAG in NumPy and SciPy on logistic regression with one penalty for each feature.

Each outer step solves the inner problem by L-BFGS until ||gradient|| < eps_k ||first gradient||, and the linear system
by conjugate gradients, both warm; eps_k = eps_0 / k^2 or eps_0 0.9^k. The hyperparameters then move by 1/L along the
approximate gradient, projected; L starts at its norm times their number, falls by 5 % where the validation loss fell
enough, and doubles where it rose. Rules and constants are those of the author's implementation, which was read for
this (github.com/fabianp/hoag), written anew, eps_0 = 0.01. Source: Pedregosa, 2016.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from protocol import Run, serve
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit

FIRST = 0.01
SCHEDULES: dict[str, Callable[[int], float]] = {
    "quadratic": lambda k: FIRST / (k + 1) ** 2,
    "exponential": lambda k: FIRST * 0.9**k,
}
FLOOR = 1e-12


class Enough(Exception):
    """The gradient is small enough; the argument is where."""


class Problem:
    """The two losses, with counts of gradients and of products with the Hessian."""

    def __init__(self, arrays: dict) -> None:
        self.X, self.y, self.X_val, self.y_val = (arrays[name] for name in ("X", "y", "X_val", "y_val"))
        self.gradients = self.products = 0

    def inner(self, w: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
        self.gradients += 1
        margin = self.y * (self.X @ w)
        slope = self.X.T @ (-self.y * expit(-margin)) / len(self.y)
        return np.mean(np.logaddexp(0, -margin)) + 0.5 * weight @ w**2, slope + weight * w

    def solve(self, w: np.ndarray, weight: np.ndarray, target: float) -> np.ndarray:
        """The inner problem from ``w`` until the gradient is below ``target``."""

        def watched(at: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self.inner(at, weight)
            if np.linalg.norm(slope) < target:
                raise Enough(at.copy())
            return value, slope

        try:
            return minimize(
                watched, w, method="L-BFGS-B", jac=True, options={"maxiter": 10_000, "gtol": 0, "ftol": 0}
            ).x
        except Enough as found:
            return found.args[0]

    def hessian(self, w: np.ndarray, weight: np.ndarray) -> LinearOperator:
        p = expit(self.X @ w)
        curvature = p * (1 - p) / len(self.y)

        def product(v: np.ndarray) -> np.ndarray:
            self.products += 1
            return self.X.T @ (curvature * (self.X @ v)) + weight * v

        return LinearOperator((w.size, w.size), matvec=product)

    def outer(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = self.y_val * (self.X_val @ w)
        slope = self.X_val.T @ (-self.y_val * expit(-margin)) / len(self.y_val)
        return float(np.mean(np.logaddexp(0, -margin))), slope


def prepare(arrays: dict, schedule: Callable[[int], float]) -> Run:
    low, high, steps = float(arrays["low"]), float(arrays["high"]), int(arrays["steps"])

    def run() -> dict:
        problem, h = Problem(arrays), arrays["start"].copy()
        w = np.zeros(h.size)
        scale = np.linalg.norm(problem.inner(w, np.exp(h))[1])
        trace: list[tuple] = []
        before, old_eps, L, u = np.inf, FIRST, 0.0, None
        began = time.perf_counter()
        for k in range(steps):
            eps, weight = max(schedule(k), FLOOR), np.exp(h)
            w = problem.solve(w, weight, eps * scale)
            value, slope = problem.outer(w)
            trace.append((time.perf_counter() - began, problem.gradients, problem.products, h.copy()))
            u, _ = cg(problem.hessian(w, weight), slope, x0=w if u is None else u, rtol=eps, maxiter=10_000)
            gradient = -weight * w * u
            L = L or float(np.linalg.norm(gradient)) * h.size
            moved = np.clip(h - gradient / L, low, high)
            length = np.linalg.norm(moved - h)
            if value - eps <= before + old_eps * (1 + length) - 0.5 * L * length**2:
                L *= 0.95
            elif value > before:
                L *= 2
            before, old_eps, h = value, eps, moved
            if trace[-1][0] > float(arrays["patience"]):
                break
        seconds, gradients, products, hparams = zip(*trace, strict=True)
        return {"seconds": seconds, "gradients": gradients, "products": products, "hparams": np.stack(hparams)}

    return run


if __name__ == "__main__":
    serve({name: partial(prepare, schedule=schedule) for name, schedule in SCHEDULES.items()})
