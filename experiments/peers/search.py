"""Hyperparameter search: hypergradients against TPE, random search and a grid, to the best loss that these find.

    python -m experiments.peers.search [--smoke] [--peers optuna=PYTHON]        # about 5 minutes

Elastic net (2 penalties, 200 x 400 made-up data), softmax regression on 300 digits with a penalty for each class (10),
and each feature (128, half noise), all on log scale within [-9, 2], from -3. The samplers have 300 evaluations each
(150 with 128 penalties), TPE and random search with two seeds. The target is the lowest loss that any of their runs
ends with: their strongest sets it, and nothing of ours. All arms use one compiled solver of the inner problem, of
tolerance 1e-6, each from the last solution; ours evaluates the gradient too, and descends by SciPy's L-BFGS-B. Counted:
evaluations and seconds (compilation apart) until the loss is first at the target; of TPE the median of its runs, and
its budget where a run does not get there.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.training.figures import style
from experiments.peers import common
from experiments.peers.search_problems import HIGH, LOW, PROBLEMS
from experiments.peers.served.outer import descend

PEERS = ("optuna",)
MOST = {"elastic net": 300, "penalty a class": 300, "penalty a feature": 150}
SEEDS = 2
OURS = "bilevel"
Curve = tuple[np.ndarray, np.ndarray]  # seconds, best loss so far


def evaluator(task: bl.Task) -> Callable[[np.ndarray], float]:
    """The validation loss alone, from the last solution: one compiled function."""
    key = jax.random.key(0)
    inner_batch, outer_batch = task.batches(key, 0)

    @jax.jit
    def value(h: jax.Array, start: Any) -> tuple:
        params = task.inner.solve(h, inner_batch, key=key, init=start).params
        return task.outer_loss(params, h, outer_batch), params

    first = jnp.asarray(task.init_hparams(key))
    last = [task.inner.init(key, first)]
    for _ in range(2):  # compiled for both kinds of start
        last[0] = jax.block_until_ready(value(first, last[0]))[1]

    def evaluate(h: np.ndarray) -> float:
        found, last[0] = value(jnp.asarray(h), last[0])
        return float(found)

    return evaluate


def descent(task: bl.Task, steps: int) -> Curve:
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-4), accuracy="residual", on_failure="warn")
    start = np.asarray(task.init_hparams(jax.random.key(0)), float)
    _, _, report = bl.hypergradient(task, jnp.asarray(start), engine)
    bl.hypergradient(task, jnp.asarray(start), engine, carry=report.carry)  # both are compiled before the clock starts
    values: list[float] = []
    carry: list[bl.Carry | None] = [None]

    def evaluate(h: np.ndarray) -> tuple:
        value, gradient, report = bl.hypergradient(task, jnp.asarray(h), engine, carry=carry[0])
        carry[0] = report.carry
        values.append(float(value))
        return value, gradient, 0, 0

    found = descend(evaluate, {"start": start, "low": LOW, "high": HIGH, "steps": steps, "patience": np.inf})
    return np.asarray(found["seconds"]), np.minimum.accumulate(values)


def sampled(points: Iterator[np.ndarray], evaluate: Callable[[np.ndarray], float], most: int) -> Curve:
    seconds, values = [], []
    began = time.perf_counter()
    for point in itertools.islice(points, most):
        values.append(evaluate(point))
        seconds.append(time.perf_counter() - began)
    return np.asarray(seconds), np.minimum.accumulate(values)


def random_points(size: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    while True:
        yield rng.uniform(LOW, HIGH, size)


def grid_points(size: int, most: int) -> Iterator[np.ndarray]:
    """The finest grid of at most ``most`` points in two dimensions; one common penalty in more."""
    if size > 2:
        return (np.full(size, value) for value in np.linspace(LOW, HIGH, most))
    return (np.asarray(point) for point in itertools.product(np.linspace(LOW, HIGH, int(most**0.5)), repeat=2))


@contextmanager
def suggestions(python: str, size: int, seed: int) -> Iterator[Any]:
    """Asks and tells a process of Optuna."""
    command = [python, str(common.FOLDER / "served" / "search_optuna.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def tpe(python: str, size: int, seed: int, evaluate: Callable[[np.ndarray], float], most: int) -> Curve:
    with suggestions(python, size, seed) as process:
        print(json.dumps([size, LOW, HIGH, seed]), file=process.stdin, flush=True)

        def points() -> Iterator[np.ndarray]:
            while line := process.stdout.readline():
                yield np.asarray(json.loads(line))

        def told(point: np.ndarray) -> float:
            value = evaluate(point)
            print(json.dumps(value), file=process.stdin, flush=True)
            return value

        return sampled(points(), told, most)


def curves_of(name: str, settings: Any) -> dict[str, list[Curve]]:
    task = PROBLEMS[name]()
    most, seeds = (20, 1) if settings.smoke else (MOST[name], SEEDS)
    size = int(np.size(task.init_hparams(jax.random.key(0))))
    evaluate = evaluator(task)
    arms: dict[str, list[Curve]] = {
        OURS: [descent(task, 60)],
        "random": [sampled(random_points(size, seed), evaluate, most) for seed in range(seeds)],
        "grid": [sampled(grid_points(size, most), evaluate, most)],
    }
    if "optuna" in settings.peers:
        python = settings.peers["optuna"]
        arms["optuna: TPE"] = [tpe(python, size, seed, evaluate, most) for seed in range(seeds)]
    return arms


def target_of(arms: dict[str, list[Curve]]) -> float:
    """The lowest loss of the samplers."""
    return min(float(best[-1]) for arm, runs in arms.items() if arm != OURS for _, best in runs)


def rows_of(name: str, arms: dict[str, list[Curve]]) -> list[dict[str, Any]]:
    target = target_of(arms)
    rows = []
    for arm, runs in arms.items():
        hits = [np.nonzero(best <= target)[0] for _, best in runs]
        count = [int(hit[0]) + 1 if hit.size else np.inf for hit in hits]
        spent = [float(seconds[hit[0]]) if hit.size else np.inf for hit, (seconds, _) in zip(hits, runs, strict=True)]
        in_all = [len(best) for _, best in runs], [float(seconds[-1]) for seconds, _ in runs]
        rows.append(
            {
                "problem": name,
                "arm": arm,
                "target": target,
                "reached": f"{sum(np.isfinite(count))} of {len(runs)}",
                "evaluations": float(np.median(np.minimum(count, in_all[0]))),
                "seconds": float(np.median(np.minimum(spent, in_all[1]))),
                "best_loss": float(np.median([best[-1] for _, best in runs])),
                "evaluations_in_all": in_all[0][0],
                "seconds_in_all": float(np.median(in_all[1])),
            }
        )
    return rows


@style()
def draw(found: dict[str, dict[str, list[Curve]]], picture: Path) -> None:
    figure = Figure(figsize=(4.5 * len(found), 7), layout="constrained")
    for column, (name, arms) in zip(figure.subplots(2, len(found), squeeze=False).T, found.items(), strict=True):
        for color, (arm, runs) in enumerate(arms.items()):
            for number, (seconds, best) in enumerate(runs):
                label = arm if number == 0 else None
                column[0].loglog(np.arange(1, len(best) + 1), best, f"C{color}", label=label)
                column[1].loglog(seconds, best, f"C{color}", label=label)
        for axes, along in zip(column, ("evaluations", "seconds"), strict=True):
            axes.axhline(target_of(arms), color="black", linestyle="--", linewidth=0.8)
            axes.set(xlabel=along, ylabel="best validation loss")
            axes.yaxis.set_minor_formatter("{x:.2g}")
        column[0].set_title(name)
        column[0].legend()
    figure.savefig(picture, dpi=120)


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    for name in dict.fromkeys(row["problem"] for row in rows):
        here = {row["arm"]: row for row in rows if row["problem"] == name}
        if "optuna: TPE" in here:
            own, peer = here[OURS], here["optuna: TPE"]
            shares = [own[key] / peer[key] for key in ("evaluations", "seconds")]
            claim = f"{name}: less than 10 % of TPE's evaluations and time; {shares[0]:.1%} and {shares[1]:.1%}"
            yield common.verdict(claim, max(shares) < 0.1 and own["reached"] == "1 of 1")


def main() -> None:
    settings = common.arguments(__doc__, *PEERS)
    jax.config.update("jax_enable_x64", True)
    results, picture = common.paths("search", settings.out)
    found: dict[str, dict[str, list[Curve]]] = {}
    rows: list[dict[str, Any]] = []
    for name in ["penalty a class"] if settings.smoke else PROBLEMS:
        found[name] = curves_of(name, settings)
        more = rows_of(name, found[name])
        rows += more
        common.show(more)
        common.write(results, rows)
        draw(found, picture)
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
