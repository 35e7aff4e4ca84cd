"""HOAG in NumPy and SciPy, after its paper as recalled, on logistic regression with one penalty for each feature.

Each outer step solves the inner problem by L-BFGS and the linear system by conjugate gradients, both warm and both to
eps_k = 0.1 / k^2 or 0.1 * 0.9^k relative to the first gradient; the step size is 1/L, with L lowered by 5 % after a
step that decreases the loss and raised after one that does not, which is taken back. Source: Pedregosa, 2016.
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

SCHEDULES: dict[str, Callable[[int], float]] = {
    "quadratic": lambda k: 0.1 / (k + 1) ** 2,
    "exponential": lambda k: 0.1 * 0.9**k,
}


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
        w, u = np.zeros(h.size), np.zeros(h.size)
        scale = np.linalg.norm(problem.inner(w, np.exp(h))[1])
        trace: list[tuple] = []
        before, h_before, gradient, L = np.inf, h, np.zeros_like(h), 0.0
        began = time.perf_counter()
        for k in range(steps):
            eps, weight = schedule(k), np.exp(h)
            settings = {"maxiter": 10_000, "gtol": eps * scale / np.sqrt(h.size), "ftol": 0.0}
            w = minimize(problem.inner, w, (weight,), "L-BFGS-B", jac=True, options=settings).x
            value, slope = problem.outer(w)
            trace.append((time.perf_counter() - began, problem.gradients, problem.products, h.copy()))
            if value > before + eps * 0.25:  # taken back, with a shorter step
                L *= 1.5
                h = np.clip(h_before - gradient / L, low, high)
                continue
            u, _ = cg(problem.hessian(w, weight), slope, x0=u, rtol=eps, maxiter=1000)
            gradient = -weight * w * u
            L = 0.95 * L if L else float(np.linalg.norm(gradient))
            before, h_before = value, h
            h = np.clip(h - gradient / L, low, high)
        seconds, gradients, products, hparams = zip(*trace, strict=True)
        return {"seconds": seconds, "gradients": gradients, "products": products, "hparams": np.stack(hparams)}

    return run


if __name__ == "__main__":
    serve({name: partial(prepare, schedule=schedule) for name, schedule in SCHEDULES.items()})
