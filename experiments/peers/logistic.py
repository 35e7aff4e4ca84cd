"""Logistic regression with one penalty for each feature: time and products to the optimum of the validation loss.

    python -m experiments.peers.logistic [--smoke] [--peers jaxopt=PYTHON torchopt=PYTHON]   # a quarter of an hour

ijcnn1 (22 features) and a9a (123), half of the training file for training and half for validation; the penalty of
feature j is exp(h_j), h within [-12, 3], started at -4. All arms see the same arrays. The outer loop is SciPy's
L-BFGS-B for ours, JAXopt and TorchOpt, restarted where its line search ends on an inexact value, and HOAG's own for
HOAG (written here in NumPy and SciPy after the author's rules). Ours run at fixed tolerances and with tolerances that
shrink by a summable schedule, as HOAG's do; by the default solver with CG (for 123 features L-BFGS), and by Newton's
method, whose last factor solves the adjoint system. Each descent ends after 600 evaluations or with the one under way
after 30 seconds. Gradients of the inner loss and products with its Hessian are counted for every arm. The validation
loss of every step is evaluated afterwards at a tolerance of 1e-12; what is reported is when it was first within 1e-6 of
the optimum, the least that any arm or a long descent (Newton's method, a tolerance of 1e-9) came to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
from experiments.peers import common
from experiments.peers.logistic_figure import curves_beside, draw
from experiments.peers.served.outer import descend

PEERS = ("jaxopt", "torchopt")
SUBOPTIMALITY = 1e-6
ROUGHLY = 1e-5  # reported too, in seconds
LOW, HIGH, START, STEPS = -12.0, 3.0, -4.0, 600
PATIENCE = 30.0  # seconds that a descent may take
LONG = {"steps": 1500, "patience": 150.0}  # the descent, not timed, to the optimum that all are judged by


class Ours(NamedTuple):
    """One way to solve by ours: the finest tolerance of both solves, how it is reached, and by which solver. With
    Newton's method the adjoint takes over the factor of its last step."""

    tol: float
    schedule: bl.Schedule | None = None
    newton: bool = False


SUMMABLE = bl.Summable(first=1e-2, rate=0.7)
OURS = {
    "Auto 1e-04": Ours(1e-4),
    "Auto 1e-06": Ours(1e-6),
    "Auto summable": Ours(1e-8, SUMMABLE),
    "Newton 1e-06": Ours(1e-6, newton=True),
    "Newton 1e-08": Ours(1e-8, newton=True),
    "Newton summable": Ours(1e-8, SUMMABLE, newton=True),
}


def data(name: str) -> dict[str, Any]:
    """Halves of the training file, columns scaled to at most 1, the labels -1 and 1."""
    if name == "made up":
        rng = np.random.default_rng(0)
        X = rng.standard_normal((400, 8))
        y = np.sign(X @ rng.standard_normal(8) + rng.standard_normal(400))
    else:
        found = bl.data.load(name)
        inputs: Any = found.inputs
        X = np.asarray(inputs if isinstance(inputs, np.ndarray) else inputs.toarray(), float)
        y = np.where(np.asarray(found.targets) > 0, 1.0, -1.0)
    order = np.random.default_rng(1).permutation(len(y))
    first, second = np.array_split(order, 2)
    arrays = {"X": X[first], "y": y[first], "X_val": X[second], "y_val": y[second]}
    return arrays | {
        "start": np.full(X.shape[1], START),
        "low": LOW,
        "high": HIGH,
        "steps": STEPS,
        "patience": PATIENCE,
    }


def loss(z: jax.Array, params: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
    return jnp.mean(jnp.logaddexp(0.0, -batch[1] * z)) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


def task(arrays: dict[str, Any], solver: bl.Solver) -> bl.Task:
    train, held_out = ((jnp.asarray(arrays[a]), jnp.asarray(arrays[b])) for a, b in (("X", "y"), ("X_val", "y_val")))
    return bl.Task(
        inner=bl.InnerProblem(
            loss=bl.Linear(design=lambda batch: batch[0], loss=loss),
            init=lambda key, hparams: jnp.zeros_like(hparams),
            solver=solver,
        ),
        outer_loss=lambda w, h, batch: jnp.mean(jnp.logaddexp(0.0, -batch[1] * (batch[0] @ w))),
        init_hparams=lambda key: jnp.asarray(arrays["start"]),
        batches=bl.full_batch(train, held_out),
    )


def descent(arrays: dict[str, Any], ours: Ours) -> Callable[[], dict[str, Any]]:
    """Ours: warm starts of parameters and adjoint by the carry."""
    by_products = bl.Implicit(linear_solve=bl.CG(tol=ours.tol), accuracy="residual", on_failure="warn")
    by_factor = bl.Implicit(
        linear_solve=bl.AutoLinear(tol=ours.tol), reuse=True, accuracy="residual", on_failure="warn"
    )
    stated = task(arrays, bl.Newton(tol=ours.tol) if ours.newton else bl.Auto(tol=ours.tol))
    engine: bl.Engine = by_factor if ours.newton else by_products
    if ours.schedule is not None:
        engine = bl.Adaptive(engine, schedule=ours.schedule, on_failure="warn")

    def run() -> dict[str, Any]:
        carry: list[Any] = [None]

        def evaluate(h: np.ndarray) -> tuple:
            value, gradient, report = bl.hypergradient(stated, jnp.asarray(h), engine, carry=carry[0])
            carry[0] = report.carry
            return value, gradient, int(report.counts.gradients), int(report.counts.hessian_products)

        return descend(evaluate, arrays)

    return run


def exact(arrays: dict[str, Any]) -> Callable[[np.ndarray], list[float]]:
    """The validation loss at each row of hyperparameters, from one solution to the next, by Newton's method."""
    stated = task(arrays, bl.Newton(tol=1e-12))
    train, held_out = stated.batches(jax.random.key(0), 0)

    @jax.jit
    def evaluate(h: jax.Array, start: jax.Array, train: tuple, held_out: tuple) -> tuple[jax.Array, jax.Array]:
        solution = stated.inner.solve(h, train, init=start)
        value = stated.outer_loss(solution.params, h, held_out)
        return jnp.where(solution.status.ok, value, jnp.nan), solution.params

    def values(trajectory: np.ndarray) -> list[float]:
        params, found = jnp.zeros(trajectory.shape[1]), []
        for h in trajectory:
            value, params = evaluate(jnp.asarray(h), params, train, held_out)
            found.append(float(value))
        if not np.isfinite(found).all():
            raise RuntimeError(f"Newton's method did not solve {np.isnan(found).sum()} of {len(found)} inner problems.")
        return found

    return values


def rows_of(name: str, given: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is reported of each arm, and the points of its curve."""
    arrays = data(name)
    ours = [common.own(f"bilevel: {arm}", descent(arrays, settings)) for arm, settings in OURS.items()]
    peers = {"hoag": sys.executable} | given.peers
    with common.served("logistic", peers, arrays) as theirs:
        found = common.in_turn([*ours, *theirs], 1 if given.smoke else 3, patience=5.0)
    values, curves = exact(arrays), {}
    for timed in found.values():
        if not timed.failed:
            result = timed.result
            curves[timed.name] = (result["seconds"], values(result["hparams"]), result["gradients"], result["products"])
    long = descent(arrays | LONG, Ours(1e-9, newton=True))()
    end = values(long["hparams"][-1:])[0]
    best = min([end, *(min(curve[1]) for curve in curves.values())])
    print(
        f"{name}: optimum by {len(long['seconds'])} evaluations, {end:.9f}; the best of all arms {best:.9f}", flush=True
    )
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for arm, (seconds, losses, gradients, products) in curves.items():
        gaps = np.asarray(losses) - best
        points += curve_of(name, arm, seconds, np.add(gradients, products), gaps)
        within, roughly = np.nonzero(gaps <= SUBOPTIMALITY)[0], np.nonzero(gaps <= ROUGHLY)[0]
        at = int(within[0]) if within.size else -1
        rows.append(
            {
                "data": name,
                "arm": arm,
                "seconds": float(seconds[at]) if within.size else float("inf"),
                "seconds_to_1e-5": float(seconds[roughly[0]]) if roughly.size else float("inf"),
                "outer_evaluations": at + 1 if within.size else -1,
                "gradients": int(gradients[at]) if within.size else -1,
                "products": int(products[at]) if within.size else -1,
                "suboptimality": float(gaps.min()),
                "seconds_in_all": float(seconds[-1]),
                "compile_seconds": found[arm].compile_seconds,
            }
        )
    return rows, points


def curve_of(name: str, arm: str, seconds: Any, calls: Any, gaps: np.ndarray) -> list[dict[str, Any]]:
    """The evaluations that came nearer to the optimum than all before, and the last one: the least suboptimality so
    far over seconds and over calls. The optimum itself, 0, is left out, because the axis is logarithmic.

    >>> points = curve_of("made up", "ours", [0.1, 0.2, 0.3], [5, 9, 12], np.array([1.0, 2.0, 0.5]))
    >>> [(point["calls"], point["suboptimality"]) for point in points]
    [(5, 1.0), (12, 0.5)]
    """
    least = np.minimum.accumulate(gaps)
    at = [k for k in range(len(gaps)) if k == len(gaps) - 1 or k == 0 or gaps[k] < least[k - 1]]
    return [
        {
            "data": name,
            "arm": arm,
            "seconds": float(seconds[k]),
            "calls": int(calls[k]),
            "suboptimality": float(least[k]),
        }
        for k in at
        if least[k] > 0
    ]


def main() -> None:
    settings = common.arguments(__doc__, *PEERS)
    jax.config.update("jax_enable_x64", True)
    results, picture = common.paths("logistic", settings.out)
    rows: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    names = ("made up",) if settings.smoke else ("ijcnn1", "a9a")
    for name in names:
        more, curve = rows_of(name, settings)
        rows, points = rows + more, points + curve
        common.show(more)
        common.write(results, rows)
        common.write(curves_beside(results), points)
        draw(results, picture)
    for name in names:
        here = [row for row in rows if row["data"] == name]
        groups = [[row for row in here if row["arm"].startswith("bilevel") == own] for own in (True, False)]
        for key in ("seconds", "seconds_to_1e-5", "gradients and products"):
            ours, theirs = (min((worth(row, key) for row in group), default=float("inf")) for group in groups)
            times = theirs / ours if np.isfinite(ours) else float("nan")
            print(common.verdict(f"{name}: fewer {key} than every peer that ran; {times:.3g} times", ours < theirs))


def worth(row: dict[str, Any], key: str) -> float:
    """Seconds, or gradients and products together; infinite where that was not reached, or is not known."""
    if key in row:
        return row[key]
    return row["gradients"] + row["products"] if row["gradients"] >= 0 else float("inf")


if __name__ == "__main__":
    main()
