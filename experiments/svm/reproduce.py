"""The penalty of a multiclass SVM: solvers and optimality conditions, implicit against unrolled, time and memory.

    python experiments/svm/reproduce.py [--part NAME] [--resume] [--limit SECONDS] [--smoke] [--out DIR]

Writes results.csv, row by row, and svm.png, prints tables, and asserts the claims.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from figure import draw
from timing import AT, IMPLICIT, MAPPINGS, SOLVERS, UNROLLED, times

import bilevel as bl

sys.path.append(str(Path(__file__).resolve().parent.parent))
from common import append, folder, parser, read, write

HERE = Path(__file__).resolve().parent

COLUMNS = ("part", "features", "solver", "mapping", "engine", "quantity", "value")
SIZES = (200, 750, 1000, 2000, 3000, 4000, 5000, 7500, 10_000)
LIMIT = 12.0
Lines = list[dict[str, str]]


def agreement(features: int) -> Iterator[tuple]:
    """The hypergradient by every solver and optimality condition, against that of an exact solver."""
    exact = bl.tasks.svm(features=features, solver="active_set_newton", tol=1e-10)
    truth = float(bl.hypergradient(exact, jnp.asarray(AT), IMPLICIT)[1])
    reach = 1e-4
    values = [float(bl.hypergradient(exact, jnp.asarray(AT + sign * reach), IMPLICIT)[0]) for sign in (1, -1)]
    off = abs(truth / ((values[0] - values[1]) / (2 * reach)) - 1)
    yield "agreement", features, "active_set_newton", "projected_gradient", "implicit", "against differences", off
    for solver in SOLVERS:
        for mapping in MAPPINGS:
            task = bl.tasks.svm(features=features, solver=solver, mapping=mapping, tol=1e-6)
            found = float(bl.hypergradient(task, jnp.asarray(AT), IMPLICIT)[1])
            yield "agreement", features, solver, mapping, "implicit", "relative error", abs(found / truth - 1)


def convergence(sizes: tuple[int, ...], steps: int, lines: Lines) -> Iterator[tuple]:
    """The validation loss after the same outer steps by both engines."""
    done = {(line["features"], line["engine"]) for line in lines}
    for features in sizes:
        for engine, name in ((IMPLICIT, "implicit"), (UNROLLED, "unrolled")):
            if (str(features), name) in done:
                continue
            trainer = bl.Trainer(optimizer=optax.adam(0.2), engine=engine, steps=steps)
            summary = trainer.fit(bl.tasks.svm(features=features, tol=1e-6)).summary
            arm = ("projected_gradient", "projected_gradient", name)
            yield "convergence", features, *arm, "seconds a step", summary["seconds_per_step"]
            yield "convergence", features, *arm, "validation loss", summary["best_outer_loss"]


PARTS: dict[str, Callable[[Lines, float], Iterator[tuple]]] = {
    "agreement": lambda lines, limit: agreement(100),
    "convergence": lambda lines, limit: convergence((100, 1000), 150, lines),
    "time": lambda lines, limit: times(SIZES, limit, lines),
}
LAST = ("validation loss", "cpu seconds")  # the row that ends what was measured together


def main() -> None:
    command = parser(__doc__, "the agreement alone")
    command.add_argument("--part", choices=PARTS, help="one part alone; the others of results.csv stay")
    command.add_argument("--resume", action="store_true", help="keep the rows of results.csv, run what is missing")
    command.add_argument("--limit", type=float, default=LIMIT, help="processor seconds of one hypergradient; or inf")
    settings = command.parse_args()
    out = folder(settings, HERE)
    chosen = ["agreement"] if settings.smoke else [settings.part] if settings.part else list(PARTS)
    path = out / "results.csv"
    with jax.enable_x64(True):
        for part in chosen:
            lines = begin(path, part, settings.resume)
            for row in PARTS[part](lines, settings.limit):
                print(*row[:-1], f"{row[-1]:.3g}", flush=True)
                append(path, (*row[:-1], f"{row[-1]:.5g}"))
    draw(path, out / "svm.png")
    table(read(path))
    print(f"written to {out}")
    claims(read(path))


def begin(path: Path, part: str, resume: bool) -> Lines:
    """Leaves in results.csv the rows of the other parts, and of this one, where a run resumes, those of what was
    finished; these are returned."""
    lines = read(path) if path.exists() else []
    key = lambda line: tuple(line[name] for name in COLUMNS[:5])
    finished = {key(line) for line in lines if resume and line["part"] == part and line["quantity"] in LAST}
    own = [line for line in lines if key(line) in finished]
    kept = [line for line in lines if line["part"] != part] + own
    write(path, COLUMNS, [[line[name] for name in COLUMNS] for line in kept])
    return own


def table(lines: Lines) -> None:
    """Prints processor seconds by arm and size as the table of README.md."""
    cells: dict[tuple, dict[str, dict[str, float]]] = {}
    for line in lines:
        if line["part"] == "time":
            own = cells.setdefault((line["solver"], line["mapping"], line["engine"]), {})
            own.setdefault(line["features"], {})[line["quantity"]] = float(line["value"])
    sizes = sorted({size for own in cells.values() for size in own}, key=int)
    print("| solver / condition | way |", *(f"p = {size} |" for size in sizes))
    for (solver, mapping, way), own in cells.items():
        shown = [f"{own.get(size, {}).get('cpu seconds', float('nan')):.2g}" for size in sizes]
        half = [f"{own.get(size, {}).get('ci90', float('nan')):.1g}" for size in sizes]
        print(f"| {solver} / {mapping} | {way} |", *(f"{a} +- {b} |" for a, b in zip(shown, half, strict=True)))


def claims(lines: Lines) -> None:
    """All solvers and conditions give one hypergradient; implicit is faster, and its validation loss the same."""
    errors = [float(line["value"]) for line in lines if line["part"] == "agreement"]
    assert all(error <= 1e-3 for error in errors), errors
    losses: dict[str, list[float]] = {}
    for line in lines:
        if line["quantity"] == "validation loss":
            losses.setdefault(line["features"], []).append(float(line["value"]))
    assert all(max(pair) / min(pair) <= 1.01 for pair in losses.values()), losses
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
