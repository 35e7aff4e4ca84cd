"""Hyperparameter search to a target validation loss: hypergradients against TPE, random search and a grid.

    python -m experiments.peers.search [--smoke] [--peers optuna=PYTHON]        # about 3 minutes

Elastic net (2 penalties, 200 x 400 made-up data), softmax regression on 300 digits with a penalty for each class (10),
and each feature (128, half noise), all on log scale within [-7, 2], from -3. The target: the best loss found by 60
steps of ours plus 1 % of what they gained. All arms use one compiled solver of the inner problem, tolerance 1e-6,
each from the last solution; ours evaluates the gradient too, and descends by SciPy's L-BFGS-B. Counted: evaluations and
seconds (compilation apart) until the loss is first at the target, at most 150 evaluations (two seeds, the median).
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
from experiments.peers import common
from experiments.peers.served.outer import descend

PEERS = ("optuna",)
LOW, HIGH, START = -7.0, 2.0, -3.0
MOST, SEEDS, SHARE = 150, 2, 0.01
Curve = tuple[np.ndarray, np.ndarray]  # seconds, best loss so far


def elastic_net() -> bl.Task:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 400))
    y = X[:, :20] @ rng.standard_normal(20) + 2 * rng.standard_normal(400)
    train, held_out = ((jnp.asarray(X[part]), jnp.asarray(y[part])) for part in (slice(200), slice(200, 400)))

    def loss(z: jax.Array, w: jax.Array, h: jax.Array, batch: tuple) -> jax.Array:
        return 0.5 * jnp.mean((z - batch[1]) ** 2) + 0.5 * jnp.exp(h[1]) * jnp.sum(w**2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=bl.Linear(design=lambda batch: batch[0], loss=loss),
            penalty=bl.L1(weight=lambda h: jnp.exp(h[0])),
            init=lambda key, h: jnp.zeros(400),
            solver=bl.Auto(tol=1e-6),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
        init_hparams=lambda key: jnp.full(2, START),
        batches=bl.full_batch(train, held_out),
    )


def softmax(by_feature: bool) -> bl.Task:
    found = bl.data.load("digits")
    inputs, labels = np.asarray(found.inputs, float) / 16, np.eye(10)[found.targets]
    if by_feature:  # as many columns of noise: penalties that differ are worth something
        inputs = np.concatenate([inputs, 0.5 * np.random.default_rng(0).standard_normal(inputs.shape)], axis=1)
    features = inputs.shape[1]
    train, held_out = ((jnp.asarray(inputs[p]), jnp.asarray(labels[p])) for p in (slice(300), slice(300, 600)))

    def error(z: jax.Array, answers: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.sum(answers * jax.nn.log_softmax(z), axis=1))

    def loss(z: jax.Array, w: jax.Array, h: jax.Array, batch: tuple) -> jax.Array:
        weight = jnp.exp(h)[:, None] if by_feature else jnp.exp(h)
        return error(z, batch[1]) + 0.5 * jnp.sum(weight * w**2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=bl.Linear(design=lambda batch: batch[0], loss=loss),
            init=lambda key, h: jnp.zeros((features, 10)),
            solver=bl.Auto(tol=1e-6),
        ),
        outer_loss=lambda w, h, batch: error(batch[0] @ w, batch[1]),
        init_hparams=lambda key: jnp.full(features if by_feature else 10, START),
        batches=bl.full_batch(train, held_out),
    )


PROBLEMS: dict[str, Callable[[], bl.Task]] = {
    "elastic net": elastic_net,
    "penalty a class": lambda: softmax(by_feature=False),
    "penalty a feature": lambda: softmax(by_feature=True),
}


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
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-6), accuracy="residual", on_failure="warn")
    start = np.asarray(task.init_hparams(jax.random.key(0)), float)
    _, _, report = bl.hypergradient(task, jnp.asarray(start), engine)
    bl.hypergradient(task, jnp.asarray(start), engine, carry=report.carry)  # both are compiled before the clock starts
    values, carry = [], [None]

    def evaluate(h: np.ndarray) -> tuple:
        value, gradient, report = bl.hypergradient(task, jnp.asarray(h), engine, carry=carry[0])
        carry[0] = report.carry
        values.append(float(value))
        return value, gradient, 0, 0

    found = descend(evaluate, {"start": start, "low": LOW, "high": HIGH, "steps": steps})
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
        process.stdin.close()  # type: ignore[union-attr]
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


def curves_of(task: bl.Task, settings: Any) -> dict[str, list[Curve]]:
    most, seeds = (20, 1) if settings.smoke else (MOST, SEEDS)
    size = int(np.size(task.init_hparams(jax.random.key(0))))
    evaluate = evaluator(task)
    arms: dict[str, list[Curve]] = {
        "bilevel": [descent(task, 15 if settings.smoke else 60)],
        "random": [sampled(random_points(size, seed), evaluate, most) for seed in range(seeds)],
        "grid": [sampled(grid_points(size, most), evaluate, most)],
    }
    if "optuna" in settings.peers:
        python = settings.peers["optuna"]
        arms["optuna: TPE"] = [tpe(python, size, seed, evaluate, most) for seed in range(seeds)]
    return arms


def rows_of(name: str, arms: dict[str, list[Curve]]) -> list[dict[str, Any]]:
    ours = arms["bilevel"][0][1]
    target = ours[-1] + SHARE * (ours[0] - ours[-1])
    rows = []
    for arm, runs in arms.items():
        hits = [np.nonzero(best <= target)[0] for _, best in runs]
        count = [int(hit[0]) + 1 if hit.size else np.inf for hit in hits]
        spent = [float(seconds[hit[0]]) if hit.size else np.inf for hit, (seconds, _) in zip(hits, runs, strict=True)]
        rows.append(
            {
                "problem": name,
                "arm": arm,
                "target": target,
                "evaluations": float(np.median(count)),
                "seconds": float(np.median(spent)),
                "best_loss": float(np.median([best[-1] for _, best in runs])),
                "evaluations_in_all": len(runs[0][1]),
                "seconds_in_all": float(np.median([seconds[-1] for seconds, _ in runs])),
            }
        )
    return rows


def draw(found: dict[str, dict[str, list[Curve]]], picture: Path) -> None:
    figure = Figure(figsize=(4.5 * len(found), 3.8), layout="constrained")
    for axes, (name, arms) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for color, (arm, runs) in enumerate(arms.items()):
            for number, (_, best) in enumerate(runs):
                axes.semilogx(np.arange(1, len(best) + 1), best, f"C{color}", label=arm if number == 0 else None)
        axes.set(xlabel="evaluations", ylabel="best validation loss", title=name)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=120)


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """TPE's figures are lower bounds where it did not reach the target."""
    for name in dict.fromkeys(row["problem"] for row in rows):
        here = {row["arm"]: row for row in rows if row["problem"] == name}
        if "optuna: TPE" in here:
            own, peer = here["bilevel"], here["optuna: TPE"]
            shares = [own[key] / min(peer[key], peer[f"{key}_in_all"]) for key in ("evaluations", "seconds")]
            claim = f"{name}: less than 10 % of TPE's evaluations and time; {shares[0]:.1%} and {shares[1]:.1%}"
            yield common.verdict(claim, max(shares) < 0.1)


def main() -> None:
    settings = common.arguments(__doc__, *PEERS)
    jax.config.update("jax_enable_x64", True)
    names = ["penalty a class"] if settings.smoke else list(PROBLEMS)
    found = {name: curves_of(PROBLEMS[name](), settings) for name in names}
    rows = [row for name, arms in found.items() for row in rows_of(name, arms)]
    results, picture = common.paths("search", settings.out)
    common.show(rows)
    common.write(results, rows)
    draw(found, picture)
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
