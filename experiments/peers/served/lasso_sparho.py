"""sparho with celer as its solver: value and derivative of the held-out loss in log alpha."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from protocol import Run, serve
from sparho import L1, HeldOutMSE, Problem, SquaredLoss, implicit_forward
from sparho.adapters import CelerLasso

TOLERANCES = (1e-8, 1e-10, 1e-12)


def prepare(arrays: dict, tol: float) -> Run:
    design = np.asfortranarray(np.vstack([arrays["x"], arrays["v"]]))
    target, alpha = np.concatenate([arrays["y"], arrays["t"]]), float(arrays["alpha"])
    problem = Problem(SquaredLoss(), L1(), design, target)
    samples = len(arrays["y"])
    criterion = HeldOutMSE(np.arange(samples), np.arange(samples, len(target)))
    solver = CelerLasso(max_iter=1000)
    adjoint = partial(implicit_forward, tol=1e-12)

    def run() -> dict:
        wrapped = lambda *args, **kwargs: solver(*args, **(kwargs | {"tol": tol}))
        found = criterion.value_and_hypergrad(problem, alpha, wrapped, adjoint)
        gradient = 0.5 * alpha * float(found.hypergrad)  # of half the mean square, in log alpha
        return {"value": 0.5 * found.value, "gradient": gradient, "support": len(found.active_set)}

    return run


def arms() -> dict[str, Callable[[dict], Run]]:
    return {f"{tol:.0e}": partial(prepare, tol=tol) for tol in TOLERANCES}


if __name__ == "__main__":
    serve(arms())
