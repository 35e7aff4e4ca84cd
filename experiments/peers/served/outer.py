"""The outer loop of the peers that have none: SciPy's L-BFGS-B, as ours runs it, with a trace of what it asked for.

Its line search ends where inexact values contradict inexact slopes: it is then restarted from there."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

GAIN = 1e-9  # of a restart, for another one to follow


class OutOfTime(Exception):
    """The descent has taken as long as it may."""


def descend(evaluate: Callable[[np.ndarray], tuple[float, np.ndarray, int, int]], arrays: dict) -> dict:
    """``evaluate(h)`` is (value, gradient, inner gradients, Hessian products); a count of -1 is not known. Ends after
    ``steps`` evaluations, or with the one that is under way after ``patience`` seconds."""
    trace: list[tuple] = []
    began = time.perf_counter()

    def oracle(h: np.ndarray) -> tuple[float, np.ndarray]:
        if trace and trace[-1][0] > float(arrays["patience"]):
            raise OutOfTime
        value, gradient, gradients, products = evaluate(h)
        trace.append((time.perf_counter() - began, gradients, products, h.copy()))
        return float(value), np.asarray(gradient, float)

    bounds = [(float(arrays["low"]), float(arrays["high"]))] * arrays["start"].size
    most, at, best = int(arrays["steps"]), arrays["start"], np.inf
    while len(trace) < most:
        options = {"maxiter": most, "maxfun": most - len(trace), "ftol": 0.0, "gtol": 1e-9}
        try:
            found = minimize(oracle, at, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
        except OutOfTime:
            break
        if not found.fun < best - GAIN:
            break
        at, best = found.x, found.fun
    seconds, gradients, products, hparams = zip(*trace, strict=True)
    return {
        "seconds": seconds,
        "gradients": np.cumsum(gradients),
        "products": np.cumsum(products),
        "hparams": np.stack(hparams),
    }
