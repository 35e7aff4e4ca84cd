"""The lasso: the hypergradient of its penalty, against celer with the closed form by hand, sparho and JAXopt.

    BILEVEL_DATA=DIR python -m experiments.peers.lasso [--smoke] \
        [--peers celer=ENV/bin/python sparho=ENV/bin/python jaxopt=ENV/bin/python]        # about 5 minutes

ALLAML (36 x 7,129 for training, as many samples held out) and planted problems of 500 x 5,000 and 1,000 x 20,000, at a
tenth and a fiftieth of the largest penalty, float64. Timed: the value of the held-out squared loss and its derivative
in the log of the penalty, from a cold start: of `bl.Linear` losses with all defaults but the tolerance (and
accuracy="residual": no peer estimates its error; the arm "with estimate" does). The error is relative to celer's
closed form on our support, solution and adjoint, in NumPy. Arms count that reach an error of 1e-6, and of each
package the fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.training.figures import style
from experiments.peers import common

PEERS = ("celer", "sparho", "jaxopt")
PROBLEMS = (("ALLAML", 36, 7129), ("planted", 500, 5000), ("planted", 1000, 20_000))
FRACTIONS = (10, 50)
TOLERANCES = (1e-6, 1e-8)
ERROR = 1e-6
LARGE = 10_000  # features from which on JAXopt, minutes a run, is left out
LEAST = 1e-16  # the error that is drawn where there is none
PATIENCE = 3.0  # seconds of one arm at one problem


def data(name: str, samples: int, features: int) -> dict[str, np.ndarray]:
    if name == "ALLAML":
        found = bl.data.load("allaml")
        order = np.random.default_rng(0).permutation(len(found.targets))
        x = np.asarray(found.inputs, float)[order]
        y = np.where(found.targets[order] == found.targets[0], 1.0, -1.0)
        x = (x - x[:samples].mean(axis=0)) / np.where(x[:samples].std(axis=0) > 0, x[:samples].std(axis=0), 1)
    else:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2 * samples, features))
        signal = x[:, : samples // 10].sum(axis=1)
        y = signal + rng.standard_normal(2 * samples) * np.linalg.norm(signal) / np.sqrt(2 * samples) / 3
    y = y - y[:samples].mean()
    return {"x": x[:samples], "y": y[:samples], "v": x[samples : 2 * samples], "t": y[samples : 2 * samples]}


def residuals(z: jax.Array, params: jax.Array, hparams: jax.Array, batch: tuple) -> jax.Array:
    return 0.5 * jnp.mean((z - batch[1]) ** 2)


def task(arrays: dict[str, np.ndarray], tol: float) -> bl.Task:
    x, y, v, t = (jnp.asarray(arrays[name]) for name in ("x", "y", "v", "t"))
    loss = bl.Linear(lambda batch: batch[0], residuals)
    inner = bl.InnerProblem(
        loss=loss,
        init=lambda key, hparams: jnp.zeros(x.shape[1]),
        penalty=bl.L1(weight=jnp.exp),
        solver=bl.Auto(tol=tol),
    )
    return bl.Task(
        inner=inner,
        outer_loss=loss,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch((x, y), (v, t)),
    )


def hypergradient(problem: bl.Task, alpha: float, accuracy: str) -> Callable[[], dict[str, Any]]:
    at = jnp.log(jnp.asarray(alpha))
    engine = bl.Implicit(accuracy=accuracy, on_failure="warn")

    def run() -> dict[str, Any]:
        value, gradient, report = bl.hypergradient(problem, at, engine)
        return {
            "value": value,
            "gradient": gradient,
            "params": report.params,
            "claimed": report.error_estimate,
        }

    return run


def closed_form(arrays: dict[str, np.ndarray], params: np.ndarray) -> float:
    """The derivative from the support and signs of the solution alone."""
    support = np.flatnonzero(params)
    x, v, alpha = arrays["x"][:, support], arrays["v"][:, support], float(arrays["alpha"])
    sign = np.sign(params[support])
    exact = np.linalg.solve(x.T @ x, x.T @ arrays["y"] - len(x) * alpha * sign)
    adjoint = np.linalg.solve(x.T @ x / len(x), v.T @ (v @ exact - arrays["t"]) / len(v))
    return float(-alpha * sign @ adjoint)


def problem_rows(
    name: str, arrays: dict[str, np.ndarray], tasks: dict[float, bl.Task], fraction: int, settings: Any
) -> Iterator[dict[str, Any]]:
    samples, features = arrays["x"].shape
    alpha = float(np.max(np.abs(arrays["x"].T @ arrays["y"])) / samples / fraction)
    arrays = arrays | {"alpha": np.asarray(alpha)}
    ours = [
        common.own(f"bilevel: {tol:.0e}", hypergradient(problem, alpha, "residual")) for tol, problem in tasks.items()
    ]
    sharpest = hypergradient(tasks[TOLERANCES[-1]], alpha, "estimate")
    ours.append(common.own(f"bilevel: {TOLERANCES[-1]:.0e}, with estimate", sharpest))
    peers = {name: python for name, python in settings.peers.items() if name != "jaxopt" or features < LARGE}
    with common.served("lasso", peers, arrays) as theirs:
        found = common.in_turn([*ours, *theirs], 2 if settings.smoke else 5, patience=PATIENCE)
    params = found[f"bilevel: {TOLERANCES[-1]:.0e}"].result["params"]
    exact = closed_form(arrays, params)
    for timed in found.values():
        yield {
            "problem": f"{name} {samples} x {features}",
            "fraction": fraction,
            "support": int(np.count_nonzero(params)),
            "arm": timed.name,
            "seconds": timed.median,
            "cpu_seconds": timed.cpu_median,
            "compile_seconds": timed.compile_seconds,
            "error": common.relative_error(np.atleast_1d(timed.result.get("gradient", np.nan)), np.atleast_1d(exact)),
        }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each problem the fastest arm of each package that is accurate enough."""
    table = []
    for place in dict.fromkeys((row["problem"], row["fraction"]) for row in rows):
        here = [row for row in rows if (row["problem"], row["fraction"]) == place]
        line = {"problem": place[0], "fraction": place[1], "support": here[0]["support"]}
        for package in ("bilevel", *PEERS):
            accurate = [row for row in here if row["arm"].startswith(package) and row["error"] <= ERROR]
            line[package] = min((row["seconds"] for row in accurate), default=float("nan"))
        line["celer / bilevel"] = line["celer"] / line["bilevel"]
        table.append(line)
    return table


@style()
def draw(rows: list[dict[str, Any]], picture: Any) -> None:
    """Error against seconds, an axes for each problem, all with the same limits and one legend."""
    places = list(dict.fromkeys((row["problem"], row["fraction"]) for row in rows))
    figure = Figure(figsize=(11, 6), layout="constrained")
    grid = figure.subplots(2, -(-len(places) // 2), sharex=True, sharey=True, squeeze=False)
    for axes, place in zip(grid.T.flat, places, strict=False):
        for package, marker in zip(("bilevel", *PEERS), "osv^", strict=True):
            here = [row for row in rows if (row["problem"], row["fraction"]) == place]
            here = [row for row in here if row["arm"].startswith(package) and "estimate" not in row["arm"]]
            errors = [max(row["error"], LEAST) for row in here]
            axes.loglog([row["seconds"] for row in here], errors, marker, label=package, alpha=0.7, linestyle="none")
        axes.axhline(ERROR, color="gray", linewidth=0.8, linestyle=":")
        axes.set_title(f"{place[0]}, largest penalty / {place[1]}", fontsize=9)
    for axes in grid.flat[len(places) :]:
        axes.remove()
    figure.supxlabel("seconds, value and derivative")
    figure.supylabel("relative error of the derivative")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(picture, dpi=120)


def main() -> None:
    settings = common.arguments(__doc__, *PEERS)
    jax.config.update("jax_enable_x64", True)
    results, picture = common.paths("lasso", settings.out)
    rows: list[dict[str, Any]] = []
    for name, samples, features in (("planted", 60, 1200),) if settings.smoke else PROBLEMS:
        arrays = data(name, samples, features)
        tasks = {tol: task(arrays, tol) for tol in TOLERANCES}  # compiled once for both penalties
        for fraction in FRACTIONS:
            rows += problem_rows(name, arrays, tasks, fraction, settings)
            common.show(summary(rows)[-1:])
            common.write(results, rows)  # after each problem: what there is stays, if the run is cut off
            draw(rows, picture)
    common.show(rows)
    print()
    common.show(summary(rows))
    if "celer" in settings.peers:
        ratios = np.array([line["celer / bilevel"] for line in summary(rows)])
        accurate = np.isfinite([line["celer"] for line in summary(rows)])
        known = np.nan_to_num(ratios[accurate])  # 0 where celer alone is accurate; where it is not, no comparison
        claim = "at least half as fast as celer and the closed form, where celer is accurate"
        slowest = min(known, default=np.nan)
        print(common.verdict(f"{claim}, {len(known)} of {len(ratios)}; {slowest:.3g} times at least", slowest >= 0.5))


if __name__ == "__main__":
    main()
