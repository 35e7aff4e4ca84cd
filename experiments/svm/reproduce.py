"""The penalty of a multiclass SVM: solvers and optimality conditions, implicit against unrolled, time and memory.

    python experiments/svm/reproduce.py [--part NAME] [--resume] [--limit SECONDS] [--smoke] [--out DIR]

Writes results.csv and svm.png, prints tables, and asserts the claims.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
SIZES = (100, 250, 500, 1000, 3000, 10_000)
TOL = 1e-4  # where times are taken; at most 2,500 steps
SCANNED = 200  # steps of the plain unrolled loop, which cannot stop by itself
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


@dataclass(frozen=True)
class Compiled:
    """A compiled function of the hyperparameter, its data being an argument: as constants they would be copied."""

    program: jax.stages.Compiled
    batch: Any

    @classmethod
    def of(cls, function: Callable, task: bl.Task) -> Compiled:
        batch = task.batches(jax.random.key(0), 0)
        return cls(jax.jit(function).lower(jnp.asarray(AT), batch).compile(), batch)

    def __call__(self, at: jax.Array) -> jax.Array:
        return self.program(at, self.batch)


def plain_scan(task: bl.Task) -> Compiled:
    """The hypergradient through a plain checkpointed `lax.scan` of projected gradient steps, compiled."""
    slope = jax.grad(task.inner.loss)
    size = float(np.linalg.norm(task.batches(jax.random.key(0), 0)[0][0], 2) ** 2)

    def value(hparams: jax.Array, batch: tuple) -> jax.Array:
        inner, outer = batch
        step_size = jnp.exp(hparams) / size

        @jax.checkpoint
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.vmap(bl.projections.simplex)(x - step_size * slope(x, hparams, inner)), None

        x, _ = jax.lax.scan(step, task.inner.init(jax.random.key(0), hparams), length=SCANNED)
        return task.outer_loss(x, hparams, outer)

    return Compiled.of(jax.grad(value), task)


def by_engine(engine: bl.Engine, **settings: object) -> Callable[[int], Compiled]:
    """features -> the compiled hypergradient."""

    def compiled(features: int) -> Compiled:
        task = bl.tasks.svm(features=features, tol=TOL, **settings)  # type: ignore[arg-type]
        return Compiled.of(lambda h, batch: bl.hypergradient(task, h, engine, batch=batch)[1], task)

    return compiled


def arms() -> dict[tuple[str, str, str], Callable[[int], Compiled]]:
    """(solver, condition, way) -> features -> the compiled hypergradient."""
    found = {}
    for solver in SOLVERS:
        own = {"solver": solver, "form": "features"}
        conditions = MAPPINGS if solver == "block_coordinate_descent" else (solver,)
        for mapping in conditions:
            found[solver, mapping, "implicit"] = by_engine(IMPLICIT, mapping=mapping, **own)
        found[solver, "-", "unrolled"] = by_engine(UNROLLED, **own)
    found["projected_gradient", "-", "plain scan"] = lambda features: plain_scan(
        bl.tasks.svm(features=features, form="features")
    )
    found["projected_gradient, gram", "projected_gradient", "implicit"] = by_engine(IMPLICIT)
    return found


def times(sizes: tuple[int, ...], repeats: int, limit: float, done: set) -> Iterator[tuple]:
    """Seconds and bytes of the hypergradients of ``repeats`` outer steps against the number of features.

    The arms take turns, so that noise is shared. One that may take more than ``limit`` seconds, judged by the size
    before in proportion, is left out.
    """
    taken: dict[tuple, float] = {}
    for before, features in zip((1, *sizes), sizes, strict=False):
        chosen = {arm: make for arm, make in arms().items() if ("time", str(features), *arm) not in done}
        chosen = {arm: make for arm, make in chosen.items() if taken.get(arm, 0) * features / before <= limit}
        compiled = {arm: make(features) for arm, make in chosen.items()}
        seconds: dict[tuple, list[float]] = {arm: [] for arm in compiled}
        for number in range(repeats + 1):  # the first is not counted
            at = jnp.asarray(AT - 0.02 * number)
            for arm, program in compiled.items():
                began = time.process_time()
                jax.block_until_ready(program(at))
                seconds[arm].append(time.process_time() - began)
        for arm, program in compiled.items():
            memory: object = program.program.memory_analysis()
            own = seconds[arm][1:]
            taken[arm] = statistics.mean(own)
            yield "time", features, *arm, "cpu seconds", taken[arm]
            yield "time", features, *arm, "ci90", 1.64 * float(np.std(own, ddof=1)) / repeats**0.5
            yield "time", features, *arm, "bytes", float(getattr(memory, "temp_size_in_bytes", float("nan")))
        for arm in arms():
            if arm not in chosen and ("time", str(features), *arm) not in done:
                taken[arm] = taken.get(arm, 0.0) * features / before  # not measured: larger ones are left out as well


def convergence(sizes: tuple[int, ...], steps: int, done: set) -> Iterator[tuple]:
    """The validation loss after the same outer steps by both engines."""
    arm = ("projected_gradient", "projected_gradient")
    for features in sizes:
        for engine, name in ((IMPLICIT, "implicit"), (UNROLLED, "unrolled")):
            if ("convergence", str(features), *arm, name) not in done:
                trainer = bl.Trainer(optimizer=optax.adam(0.2), engine=engine, steps=steps)
                summary = trainer.fit(bl.tasks.svm(features=features, tol=1e-6)).summary
                yield "convergence", features, *arm, name, "validation loss", summary["best_outer_loss"]
                yield "convergence", features, *arm, name, "seconds a step", summary["seconds_per_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the agreement alone, written to a temporary folder")
    parser.add_argument("--part", choices=PARTS, help="one part alone; the others of results.csv stay")
    parser.add_argument("--resume", action="store_true", help="keep the lines of results.csv, run what is missing")
    parser.add_argument("--limit", type=float, default=8.0, help="processor seconds a hypergradient may take; or inf")
    parser.add_argument("--out", type=Path, help="the folder to write to; by default this one")
    settings = parser.parse_args()
    out = settings.out or (Path(tempfile.mkdtemp()) if settings.smoke else HERE)
    out.mkdir(parents=True, exist_ok=True)
    chosen = ["agreement"] if settings.smoke else [settings.part] if settings.part else list(PARTS)
    path = out / "results.csv"
    with jax.enable_x64(True):
        for part in chosen:
            done = begin(path, part, settings.resume)
            with path.open("a", newline="") as stream:
                for row in PARTS[part](done, settings.limit):
                    print(*row[:-1], f"{row[-1]:.3g}", flush=True)
                    csv.writer(stream, lineterminator="\n").writerow((*row[:-1], f"{row[-1]:.5g}"))
                    stream.flush()
    draw(path, out / "svm.png")
    print(f"written to {out}")
    claims(read(path))


PARTS: dict[str, Callable[[set, float], Iterator[tuple]]] = {
    "agreement": lambda done, limit: iter(()) if done else agreement(100),
    "convergence": lambda done, limit: convergence((100, 1000), 150, done),
    "time": lambda done, limit: times(SIZES, 5, limit, done),
}


def read(path: Path) -> list[dict]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def begin(path: Path, part: str, resume: bool) -> set[tuple]:
    """Leaves the lines of the other parts in results.csv, and where a run resumes those of this one; what is done."""
    lines = read(path) if path.exists() else []
    kept = [line for line in lines if line["part"] != part or resume]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    return {tuple(line[name] for name in COLUMNS[:5]) for line in kept if line["part"] == part}


def claims(lines: list[dict]) -> None:
    """All solvers and conditions give one hypergradient; implicit is faster, and its validation loss the same."""
    errors = [float(line["value"]) for line in lines if line["part"] == "agreement"]
    assert all(error <= 1e-3 for error in errors), errors
    losses: dict[str, list[float]] = {}
    for line in lines:
        if line["quantity"] == "validation loss":
            losses.setdefault(line["features"], []).append(float(line["value"]))
    assert all(abs(first / second - 1) <= 0.01 for first, second in losses.values()), losses
    seconds = {
        (line["features"], line["solver"], line["mapping"], line["engine"]): float(line["value"])
        for line in lines
        if line["quantity"] == "cpu seconds"
    }
    for (features, solver, _, engine), value in seconds.items():
        if engine == "unrolled":
            own = [one for key, one in seconds.items() if key[:2] == (features, solver) and key[3] == "implicit"]
            assert max(own) < value, (features, solver)


if __name__ == "__main__":
    main()
