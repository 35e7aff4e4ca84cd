"""Sparse regression and classification on published gene expressions: 62 to 72 samples, 2,000 to 7,129 genes.

    BILEVEL_DATA=DIR python experiments/judges/genes.py              allaml, leukemia, colon
    BILEVEL_DATA=DIR python experiments/judges/genes.py --sets colon

Two thirds of the samples fit the l1-penalised coefficients of the standardised genes (squares on labels of -1 and 1, or
logistic), at three weights relative to the least one with a zero solution; the others make the outer loss. Ours is
`bl.hypergradient` with all defaults and a loss stated by `bl.Linear`; the peer is scikit-learn (Lasso; liblinear).

violation: of the optimality conditions, relative to the weight, by NumPy. solved: below 1e-6. wrong status: `converged`
or `stalled` with a violation above 1e-4. wrong derivative: off by more than 1e-3 and three times its estimate from
that on the support, -weight H_SS^-1 sign(w_S).
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import folder, parser, write

HERE = Path(__file__).resolve().parent
SETS = ("allaml", "leukemia", "colon")
FRACTIONS = (0.5, 0.1, 0.02)
SOLVED, WRONG, SLOPE = 1e-6, 1e-4, 1e-3
COLUMNS = (
    *("set", "loss", "fraction", "solver", "status", "nonzeros", "violation"),
    *("wrong_status", "wrong_derivative", "first_call", "seconds"),
)


class Half(NamedTuple):
    """Samples and their labels."""

    X: np.ndarray
    y: np.ndarray


class Loss(NamedTuple):
    """A mean over samples: in jax, and its first and second derivatives in numpy."""

    value: Callable[..., Any]
    slope: Callable[..., np.ndarray]
    curvature: Callable[..., np.ndarray]


LOSSES = {
    "squares": Loss(lambda z, y: 0.5 * (z - y) ** 2, lambda z, y: z - y, lambda z, y: np.ones_like(z)),
    "logistic": Loss(
        lambda z, y: jnp.logaddexp(0.0, -y * z),
        lambda z, y: -y * (1 - np.tanh(y * z / 2)) / 2,
        lambda z, y: 1 / (2 * np.cosh(z / 2)) ** 2,
    ),
}


def halves(name: str) -> tuple[Half, Half]:
    """Two thirds of a set, and one, with genes standardised on the first."""
    found = bl.data.load(name)
    X, y = np.asarray(found.inputs, float), np.where(found.targets == found.targets.max(), 1.0, -1.0)
    order = np.random.default_rng(0).permutation(len(y))
    first, second = order[: 2 * len(y) // 3], order[2 * len(y) // 3 :]
    mean, deviation = X[first].mean(axis=0), X[first].std(axis=0)
    kept = deviation > 0
    X = (X[:, kept] - mean[kept]) / deviation[kept]
    return Half(X[first], y[first]), Half(X[second], y[second])


@functools.cache
def task_of(name: str, loss: str) -> bl.Task:
    """The search for the log of the weight."""
    fit, held = halves(name)
    value = LOSSES[loss].value
    inner = bl.InnerProblem(
        loss=bl.Linear(lambda batch: batch[0], lambda z, w, h, batch: jnp.mean(value(z, batch[1]))),
        init=lambda key, h: jnp.zeros(fit.X.shape[1]),
        penalty=bl.L1(weight=jnp.exp),
    )
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.mean(value(batch[0] @ w, batch[1])),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(tuple(fit), tuple(held)),
    )


def ours(name: str, loss: str, weight: float) -> tuple[np.ndarray, str, Any]:
    try:
        _, slope, report = bl.hypergradient(task_of(name, loss), jnp.log(weight))
    except bl.ConvergenceError as error:
        report: Any = error.report
        return np.asarray(report.params), report.status.name, (np.nan, np.inf)
    return np.asarray(report.params), report.status.name, (float(slope), float(report.error_estimate))


def scikit_learn(name: str, loss: str, weight: float) -> tuple[np.ndarray, str, Any]:
    from sklearn.linear_model import Lasso, LogisticRegression

    fit = halves(name)[0]
    made = (
        Lasso(alpha=weight, fit_intercept=False, tol=1e-12, max_iter=100_000)
        if loss == "squares"
        else LogisticRegression(
            l1_ratio=1, C=1 / (weight * len(fit.y)), solver="liblinear", fit_intercept=False, tol=1e-10, max_iter=10_000
        )
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made.fit(fit.X, fit.y)
    failed = any("onverge" in str(warning.message) for warning in told)
    return np.ravel(made.coef_), "failure" if failed else "success", None


def violation(fit: Half, loss: str, weight: float, w: np.ndarray) -> float:
    """How far the gradient is from minus weight times the subdifferential of the l1 norm, over the weight."""
    gradient = fit.X.T @ LOSSES[loss].slope(fit.X @ w, fit.y) / len(fit.y)
    off = np.where(w != 0, np.abs(gradient + weight * np.sign(w)), np.maximum(np.abs(gradient) - weight, 0))
    return float(off.max() / weight)


def right_derivative(name: str, loss: str, weight: float, w: np.ndarray) -> float:
    """Of the outer loss in the log of the weight, on the support of w."""
    fit, held = halves(name)
    support = w != 0
    X, z = fit.X[:, support], fit.X @ w
    hessian = X.T @ (LOSSES[loss].curvature(z, fit.y)[:, None] * X) / len(fit.y)
    move = -weight * np.linalg.lstsq(hessian, np.sign(w[support]), rcond=1e-13)[0]
    outer = held.X[:, support].T @ LOSSES[loss].slope(held.X @ w, held.y) / len(held.y)
    return float(outer @ move)


def rows_of(name: str, loss: str, fraction: float) -> list[tuple]:
    """The rows of one problem, ours and the peer's."""
    fit, rows = halves(name)[0], []
    weight = fraction * np.abs(fit.X.T @ LOSSES[loss].slope(np.zeros(len(fit.y)), fit.y)).max() / len(fit.y)
    for solver, run in {"bilevel": ours, "scikit-learn": scikit_learn}.items():
        began = time.perf_counter()
        run(name, loss, weight)
        first = time.perf_counter() - began
        began = time.perf_counter()
        w, status, slope = run(name, loss, weight)
        seconds = time.perf_counter() - began
        off = violation(fit, loss, weight, w)
        told = status in ("converged", "stalled", "success")
        wrong, derivative = f"violation {off:.1e}" if told and not off <= WRONG else "", ""
        if slope is not None and told and not wrong:
            right = right_derivative(name, loss, weight, w)
            close = abs(slope[0] - right) <= max(3 * slope[1], SLOPE * abs(right))
            derivative = "" if close else f"{slope[0]:.6g} for {right:.6g}"
        facts = status, int(np.count_nonzero(w)), f"{off:.1e}", wrong, derivative, round(first, 3), round(seconds, 4)
        rows.append((name, loss, fraction, solver, *facts))
    return rows


def summary(rows: list[tuple]) -> str:
    """A line a solver."""
    lines = [f"{'solver':14} {'solved':>8} {'of':>4} {'wrong status':>14} {'wrong derivative':>18} {'seconds':>9}"]
    for solver in dict.fromkeys(row[3] for row in rows):
        mine = [row for row in rows if row[3] == solver]
        reached = sum(float(row[6]) <= SOLVED for row in mine)
        wrong = [sum(bool(row[column]) for row in mine) for column in (7, 8)]
        taken = sum(row[10] for row in mine)
        lines.append(f"{solver:14} {reached:8} {len(mine):4} {wrong[0]:14} {wrong[1]:18} {taken:9.2f}")
    return "\n".join(lines)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    arguments = parser(__doc__, "squares on colon at two weights")
    arguments.add_argument("--sets", nargs="*", default=list(SETS))
    settings = arguments.parse_args()
    names, losses, fractions = settings.sets, list(LOSSES), FRACTIONS
    if settings.smoke:
        names, losses, fractions = ["colon"], ["squares"], FRACTIONS[:2]
    rows = []
    for name in names:
        try:
            halves(name)
        except bl.data.DataError as error:
            sys.exit(str(error))
        for loss in losses:
            for fraction in fractions:
                rows += rows_of(name, loss, fraction)
                print("\n".join(" ".join(f"{value!s:>14}" for value in row) for row in rows[-2:]), flush=True)
    if settings.smoke or settings.out or names == list(SETS):
        write(folder(settings, HERE) / "genes.csv", COLUMNS, rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
