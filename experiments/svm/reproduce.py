"""The penalty of a multiclass SVM: solvers and optimality conditions, implicit against unrolled, time and memory.

    python experiments/svm/reproduce.py [--smoke] [--out DIR]

Writes results.csv and svm.png, prints tables, and asserts the claims.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from figure import draw

import bilevel as bl

HERE = Path(__file__).resolve().parent
COLUMNS = ("part", "features", "solver", "mapping", "engine", "quantity", "value")
SOLVERS = ("mirror_descent", "projected_gradient", "block_coordinate_descent")
MAPPINGS = ("mirror_descent", "projected_gradient")
IMPLICIT = bl.Implicit(accuracy="residual", on_failure="warn")
UNROLLED = bl.Unrolled(on_failure="warn")
STEPS = 200  # of the plain unrolled loop, and the most of the others where they are timed
AT = 2.0


def agreement(features: int) -> Iterator[tuple]:
    """The hypergradient by every solver and optimality condition, against that of an exact solver."""
    exact = bl.tasks.svm(features=features, solver="active_set_newton", tol=1e-10)
    truth = float(bl.hypergradient(exact, jnp.asarray(AT), IMPLICIT)[1])
    reach = 1e-4
    values = [float(bl.hypergradient(exact, jnp.asarray(AT + sign * reach), IMPLICIT)[0]) for sign in (1, -1)]
    difference = (values[0] - values[1]) / (2 * reach)
    yield (
        "agreement",
        features,
        "active_set_newton",
        "projected_gradient",
        "implicit",
        "against differences",
        abs(truth / difference - 1),
    )
    for solver in SOLVERS:
        for mapping in MAPPINGS:
            task = bl.tasks.svm(features=features, solver=solver, mapping=mapping, tol=1e-6)
            found = float(bl.hypergradient(task, jnp.asarray(AT), IMPLICIT)[1])
            yield "agreement", features, solver, mapping, "implicit", "relative error", abs(found / truth - 1)


def plain_scan(task: bl.Task) -> jax.stages.Compiled:
    """The hypergradient through a plain checkpointed `lax.scan` of projected gradient steps, compiled."""
    inner, outer = task.batches(jax.random.key(0), 0)
    slope = jax.grad(task.inner.loss)
    size = float(np.linalg.norm(inner[0], 2) ** 2)

    def value(hparams: jax.Array) -> jax.Array:
        step_size = jnp.exp(hparams) / size

        @jax.checkpoint
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.vmap(bl.projections.simplex)(x - step_size * slope(x, hparams, inner)), None

        x, _ = jax.lax.scan(step, task.inner.init(jax.random.key(0), hparams), length=STEPS)
        return task.outer_loss(x, hparams, outer)

    return jax.jit(jax.grad(value)).lower(jnp.asarray(AT)).compile()


def by_engine(task: bl.Task, engine: bl.Engine) -> jax.stages.Compiled:
    return jax.jit(lambda h: bl.hypergradient(task, h, engine)[1]).lower(jnp.asarray(AT)).compile()


def times(sizes: tuple[int, ...], repeats: int) -> Iterator[tuple]:
    """Seconds and bytes of a hypergradient against the number of features, the arms in turn."""
    for features in sizes:
        settings = {"features": features, "form": "features", "max_steps": STEPS, "tol": 1e-6}
        task = bl.tasks.svm(**settings)
        arms = {
            ("projected_gradient", "projected_gradient", "implicit"): by_engine(task, IMPLICIT),
            ("projected_gradient", "-", "plain scan"): plain_scan(task),
            ("projected_gradient", "-", "unrolled"): by_engine(task, UNROLLED),
        }
        gram = bl.tasks.svm(features=features, tol=1e-6)
        arms["projected_gradient, gram", "projected_gradient", "implicit"] = by_engine(gram, IMPLICIT)
        seconds: dict[tuple, list[float]] = {arm: [] for arm in arms}
        for _ in range(repeats):
            for arm, compiled in arms.items():
                began = time.process_time()
                jax.block_until_ready(compiled(jnp.asarray(AT)))
                seconds[arm].append(time.process_time() - began)
        for arm, compiled in arms.items():
            memory: object = compiled.memory_analysis()
            yield "time", features, *arm, "cpu seconds", statistics.median(seconds[arm])
            yield "time", features, *arm, "ci90", 1.64 * float(np.std(seconds[arm], ddof=1)) / repeats**0.5
            yield "time", features, *arm, "bytes", float(getattr(memory, "temp_size_in_bytes", float("nan")))
            print(features, *arm, f"{statistics.median(seconds[arm]):.3f} s", flush=True)


def convergence(features: int, steps: int) -> Iterator[tuple]:
    """The validation loss after the same outer steps by both engines."""
    for engine, name in ((IMPLICIT, "implicit"), (UNROLLED, "unrolled")):
        task = bl.tasks.svm(features=features, tol=1e-6, max_steps=STEPS)
        trainer = bl.Trainer(optimizer=optax.adam(0.2), engine=engine, steps=steps)
        summary = trainer.fit(task).summary
        yield (
            "convergence",
            features,
            "projected_gradient",
            "projected_gradient",
            name,
            "validation loss",
            summary["best_outer_loss"],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the agreement alone, written to a temporary folder")
    parser.add_argument("--part", choices=PARTS, help="one part alone; the others of results.csv stay")
    parser.add_argument("--out", type=Path, help="the folder to write to; by default this one")
    settings = parser.parse_args()
    out = settings.out or (Path(tempfile.mkdtemp()) if settings.smoke else HERE)
    out.mkdir(parents=True, exist_ok=True)
    chosen = ["agreement"] if settings.smoke else [settings.part] if settings.part else list(PARTS)
    with jax.enable_x64(True):
        for part in chosen:
            record(out / "results.csv", part, list(PARTS[part]()))
    draw(out / "results.csv", out / "svm.png")
    print(f"written to {out}")
    with (out / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    claims(lines)


PARTS = {
    "agreement": lambda: agreement(100),
    "convergence": lambda: convergence(100, 20),
    "time": lambda: times((100, 1000), 3),
}


def record(path: Path, part: str, rows: list[tuple]) -> None:
    """Puts the rows of one part in the place of its old ones."""
    kept: list[list[str]] = []
    if path.exists():
        with path.open() as stream:
            kept = [row for row in list(csv.reader(stream))[1:] if row[0] != part]
    for row in rows:
        print(*row[:-1], f"{row[-1]:.3g}", flush=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(kept)
        writer.writerows((*row[:-1], f"{row[-1]:.5g}") for row in rows)


def claims(lines: list[dict]) -> None:
    """All solvers and conditions give one hypergradient; implicit is faster, and its validation loss the same."""
    errors = [float(line["value"]) for line in lines if line["part"] == "agreement"]
    assert all(error <= 1e-3 for error in errors), errors
    losses = [float(line["value"]) for line in lines if line["part"] == "convergence"]
    assert not losses or abs(losses[0] / losses[1] - 1) <= 0.01, losses
    seconds = {
        (line["features"], line["solver"], line["engine"]): float(line["value"])
        for line in lines
        if line["quantity"] == "cpu seconds"
    }
    for (features, solver, engine), value in seconds.items():
        if engine == "unrolled":
            assert seconds[features, solver, "implicit"] < value, (features, solver)


if __name__ == "__main__":
    main()
