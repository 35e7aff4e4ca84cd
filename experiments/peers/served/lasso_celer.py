"""celer with the closed form on the support by hand: value and derivative of the held-out loss in log alpha.

The solution too is polished by the closed form: exact once support and signs are right, whatever the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from celer import Lasso
from protocol import Run, serve
from scipy.linalg import cho_factor, cho_solve

TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
LARGER = (1e-6, 1e-10)  # tolerances with a larger first working set


def prepare(arrays: dict, tol: float, **settings: object) -> Run:
    x, v = (np.asfortranarray(arrays[name]) for name in ("x", "v"))
    y, t, alpha = arrays["y"], arrays["t"], float(arrays["alpha"])

    def run() -> dict:
        model = Lasso(alpha=alpha, fit_intercept=False, tol=tol, max_iter=1000, max_epochs=100_000, **settings)
        params = model.fit(x, y).coef_
        support = np.flatnonzero(params)
        columns, held_out = x[:, support], v[:, support]
        factor, sign = cho_factor(columns.T @ columns / len(y)), np.sign(params[support])
        residual = held_out @ cho_solve(factor, columns.T @ y / len(y) - alpha * sign) - t
        adjoint = cho_solve(factor, held_out.T @ residual / len(t))
        gradient = -alpha * sign @ adjoint
        return {"value": 0.5 * np.mean(residual**2), "gradient": gradient, "support": support.size}

    return run


def arms() -> dict[str, Callable[[dict], Run]]:
    plain = {f"{tol:.0e}": partial(prepare, tol=tol) for tol in TOLERANCES}
    return plain | {f"p0 = 100, {tol:.0e}": partial(prepare, tol=tol, p0=100) for tol in LARGER}


if __name__ == "__main__":
    serve(arms())
