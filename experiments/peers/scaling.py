"""How memory grows with inner steps, and time with the numbers of hyperparameters and of unknowns.

    python -m experiments.peers.scaling [--smoke]        # about 2 minutes

Memory: temporary bytes of the compiled hypergradient of a ridge regression (200 x 100) by gradient descent, as the
compiler states them, for 10 to 10,000 inner steps, implicit and unrolled. Hyperparameters: 1 to 10^6, each weight of a
logistic regression (2,000 x 500) having the mean of its share as log penalty, so that the inner problem stays the same.
Unknowns: logistic regressions with 2,000 samples and 100 to 6,400 features. Growth is the slope of a line through the
logarithms, over the upper half of the sizes for times.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.training.figures import style
from experiments.peers import common

STEPS = (10, 30, 100, 300, 1000, 3000, 10_000)
HYPERPARAMETERS = (1, 10, 100, 1000, 10_000, 100_000, 1_000_000)
UNKNOWNS = (100, 200, 400, 800, 1600, 3200, 6400)
ENGINES = {"implicit": bl.Implicit(accuracy="residual", on_failure="warn"), "unrolled": bl.Unrolled(on_failure="warn")}


def ridge(steps: int) -> bl.Task:
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.standard_normal((200, 100)) / 10), jnp.asarray(rng.standard_normal(200))

    def loss(w: jax.Array, h: jax.Array, batch: tuple) -> jax.Array:
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2) + 0.5 * jnp.exp(h) * jnp.sum(w**2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=loss,
            init=lambda key, h: jnp.zeros(100),
            solver=bl.GradientDescent(max_steps=steps, tol=0.0, step_size=1.0),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
        init_hparams=lambda key: jnp.asarray(-3.0),
        batches=bl.full_batch((X, y), (X, -y)),
    )


def logistic(unknowns: int, hyperparameters: int) -> bl.Task:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, unknowns)) / np.sqrt(unknowns)
    y = np.sign(X @ rng.standard_normal(unknowns) + 0.3 * rng.standard_normal(2000))
    parts = [(jnp.asarray(X[part]), jnp.asarray(y[part])) for part in (slice(1000), slice(1000, 2000))]
    if hyperparameters <= unknowns:
        index = jnp.asarray(np.arange(unknowns) % hyperparameters)
        spread = lambda h: h[index]
    else:
        share = hyperparameters // unknowns
        spread = lambda h: jnp.mean(h[: share * unknowns].reshape(unknowns, share), axis=1)

    def error(w: jax.Array, batch: tuple) -> jax.Array:
        return jnp.mean(jnp.logaddexp(0.0, -batch[1] * (batch[0] @ w)))

    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, batch) + 0.5 * jnp.sum(jnp.exp(spread(h)) * w**2),
            init=lambda key, h: jnp.zeros(unknowns),
            solver=bl.Auto(tol=1e-6),
        ),
        outer_loss=lambda w, h, batch: error(w, batch),
        init_hparams=lambda key: jnp.asarray(np.full(hyperparameters, -5.0)),
        batches=bl.full_batch(*parts),
    )


def memory(sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for name, engine in ENGINES.items():
        for steps in sizes:
            task = ridge(steps)
            lowered = jax.jit(lambda h, task=task, engine=engine: bl.hypergradient(task, h, engine)[1])
            analysis: Any = lowered.lower(jnp.asarray(-3.0)).compile().memory_analysis()
            found = float(analysis.temp_size_in_bytes)
            yield {"part": "memory", "arm": name, "size": steps, "value": found, "compile_seconds": 0.0}


def times(part: str, tasks: dict[int, bl.Task], rounds: int) -> Iterator[dict[str, Any]]:
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-6), accuracy="residual", on_failure="warn")

    def arm(size: int, task: bl.Task) -> common.Arm:
        start = jnp.asarray(task.init_hparams(jax.random.key(0)))
        return common.own(str(size), lambda: {"gradient": bl.hypergradient(task, start, engine)[1]})

    found = common.in_turn([arm(size, task) for size, task in tasks.items()], rounds, patience=10.0)
    for size, timed in found.items():
        yield {
            "part": part,
            "arm": "implicit",
            "size": int(size),
            "value": timed.median,
            "compile_seconds": timed.compile_seconds,
        }


def exponent(rows: list[dict[str, Any]], half: bool = False) -> float:
    """The slope of the logarithms."""
    chosen = rows[len(rows) // 2 :] if half else rows
    sizes, values = ([np.log(row[key]) for row in chosen] for key in ("size", "value"))
    return float(np.polyfit(sizes, values, 1)[0])


@style()
def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    labels = {"memory": "bytes", "hyperparameters": "seconds", "unknowns": "seconds"}
    for axes, (part, label) in zip(figure.subplots(1, 3), labels.items(), strict=True):
        here = [row for row in rows if row["part"] == part]
        for arm in dict.fromkeys(row["arm"] for row in here):
            line = [row for row in here if row["arm"] == arm]
            axes.loglog([row["size"] for row in line], [max(row["value"], 1e-9) for row in line], "-o", label=arm)
        if label == "seconds":
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, high / 10), high)  # at least a decade, or noise looks like growth
            common.plain_ticks(axes.yaxis)
        axes.set(xlabel="inner steps" if part == "memory" else part, ylabel=label)
        axes.legend()
    figure.savefig(picture, dpi=120)


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    def of(part: str, arm: str) -> list[dict[str, Any]]:
        return [row for row in rows if (row["part"], row["arm"]) == (part, arm)]

    implicit = exponent(of("memory", "implicit"))
    yield common.verdict(
        f"implicit memory does not grow with inner steps: exponent {implicit:.2f}", abs(implicit) < 0.05
    )
    unrolled = exponent(of("memory", "unrolled"), half=True)
    yield common.verdict(f"unrolled memory grows like the square root or less: exponent {unrolled:.2f}", unrolled < 0.6)
    line = of("hyperparameters", "implicit")
    ratio = line[-1]["value"] / line[0]["value"]
    yield common.verdict(
        f"time is flat in the hyperparameters: {line[-1]['size']:,} cost {ratio:.2f} times one", ratio < 2
    )
    unknowns = exponent(of("unknowns", "implicit"), half=True)
    yield common.verdict(f"time is linear in the unknowns, or better: exponent {unknowns:.2f}", unknowns < 1.2)


def main() -> None:
    settings = common.arguments(__doc__)
    jax.config.update("jax_enable_x64", True)
    cut = slice(0, 2) if settings.smoke else slice(None)
    rounds = 2 if settings.smoke else 7
    rows = [*memory(STEPS[cut])]
    rows += times("hyperparameters", {k: logistic(500, k) for k in HYPERPARAMETERS[cut]}, rounds)
    rows += times("unknowns", {n: logistic(n, 1) for n in UNKNOWNS[cut]}, rounds)
    results, picture = common.paths("scaling", settings.out)
    common.show(rows)
    common.write(results, rows)
    draw(rows, picture)
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
