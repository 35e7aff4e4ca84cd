"""Unconstrained and bounded problems of CUTEst, as sif2jax states them, from their own starts.

    python experiments/judges/cutest.py                          bounds and none, up to 32 unknowns; sif2jax installed
    python experiments/judges/cutest.py --problems CLIFF BEALE   some of them
    python experiments/judges/cutest.py --kind bounded --unknowns 100

Ours is `bl.hypergradient` with all defaults: the problem gets a tilt h c'y, c drawn, and the outer loss is c'y, so
that the derivative at h = 0 is -c'H^-1 c on the free unknowns. Peers minimise: SciPy's BFGS (L-BFGS-B where there are
bounds) and, without bounds, Optimistix' BFGS. The best known objective is the least of the collection's own and of all
that were found.

solved: within 1e-6 of the best known, relative to 1 + |best|. wrong status: `converged` or `stalled` where a Newton
step would lower the objective by more than 1e-4 of 1 + |objective|, or a curvature is negative. wrong derivative: off
by more than 1e-3 and three times its estimate, at a minimiser whose Hessian has a condition number below 1e8. Each
problem has ``--seconds`` in a process beside this one; what takes longer, or ends it, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cutest_problems
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import append, folder, parser, read, write

HERE = Path(__file__).resolve().parent
OURS = "bilevel"
SKIPPED = "too large"  # the solver of a problem that has more unknowns than were asked for
NO_SOLVERS = ("collection", SKIPPED)
CLOSE = 1e-6
COLUMNS = (
    "problem",
    "unknowns",
    "solver",
    "status",
    "objective",
    "wrong_status",
    "wrong_derivative",
    "first",
    "seconds",
)
FEW = ("BEALE", "CLIFF", "ENGVAL2", "HIMMELBG")  # of --smoke
ABSENT = (
    "sif2jax, which has the problems, is not installed: pip install sif2jax, in an environment of its own "
    "if jax is not to change."
)


def solved(name: str, kind: str, problem: Any) -> list[list[Any]]:
    """The rows of a problem: ours and the peers'."""
    import jax
    from cutest_solvers import flattened, judged, optimistix_peer, ours, scipy_peer

    objective, start, bounds = flattened(problem)
    bounded = kind == "bounded"
    c = np.random.default_rng(0).standard_normal(start.size)
    solvers = {OURS: ours, "SciPy": scipy_peer} | ({} if bounded else {"Optimistix": optimistix_peer})
    rows = []
    for solver, made in solvers.items():
        run = made(objective, start, bounds, bounded, c)
        began = time.perf_counter()
        run()
        first = time.perf_counter() - began
        began = time.perf_counter()
        y, status, slope = run()
        seconds = time.perf_counter() - began
        verdict = judged(objective, bounds, y, c, status, slope) if slope is not None else ("", "")
        value = float(jax.jit(objective)(y))
        rows.append([name, start.size, solver, status, value, *verdict, round(first, 3), round(seconds, 4)])
    expected = problem.expected_objective_value
    known = "" if expected is None else float(np.asarray(expected))
    return [*rows, [name, start.size, "collection", "", known, "", "", "", ""]]


def work(answer: Callable[[str], list[list[Any]]], numbers: int = 1) -> None:
    """The other process: a name a line comes in, the rows of ``answer(name)`` go out as JSON. Where it fails, a row
    says so: its status is the error, and the ``numbers`` behind it are not known."""
    import jax

    jax.config.update("jax_enable_x64", True)
    for line in sys.stdin:
        name = line.strip()
        try:
            rows = answer(name)
        except Exception as error:  # the row says which
            words = " ".join(f"{type(error).__name__}: {error}".split())[:100]
            rows = [[name, "", OURS, words, *[float("nan")] * numbers, "error", *[""] * (4 - numbers)]]
        print(json.dumps(rows), flush=True)
        jax.clear_caches()


class Worker:
    """A process that solves; it ends where a problem takes too long, and a new one goes on."""

    def __init__(self, *arguments: str):
        command = [sys.executable, sys.argv[0], *arguments, "--work"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, name: str, seconds: float) -> Any:
        """The rows of a problem, or None where they did not come in time."""
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        print(name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        timer.cancel()
        return json.loads(line) if line else None


def run(names: list[str], seconds: float, path: Path, columns: tuple[str, ...], *arguments: str) -> list[list[Any]]:
    """The rows of all problems, by processes with these arguments. Each goes to ``path`` when it is there, and a
    problem that ``path`` has is not asked again: a run that was cut off goes on."""
    rows = kept(path)
    if not rows:
        write(path, columns, [])
    there = {row[0] for row in rows}
    worker = Worker(*arguments)
    for name in names:
        if name in there:
            continue
        found = worker.ask(name, seconds)
        if found is None:
            found = [[name, "", OURS, f"not within {seconds:g} s", float("nan"), "", "", "", ""]]
            worker = Worker(*arguments)
        found = found or [[name, "", SKIPPED, "", "", "", "", "", ""]]
        rows += found
        for row in found:
            append(path, row)
        for row in found:
            print(" ".join(f"{value!s:>14}" for value in row), flush=True)
    worker.process.kill()
    return rows


def kept(path: Path) -> list[list[Any]]:
    """The rows that an earlier run has written, its numbers as numbers."""
    if not path.exists():
        return []
    return [[number(value) for value in row.values()] for row in read(path)]


def number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def summary(rows: list[list[Any]]) -> str:
    """A line a solver: problems solved, statuses and derivatives that are wrong, seconds."""
    best: dict[str, float] = {}
    for row in rows:
        if row[4] != "" and np.isfinite(row[4]):
            best[row[0]] = min(best.get(row[0], np.inf), row[4])
    lines = [f"{'solver':12} {'solved':>8} {'of':>4} {'wrong status':>14} {'wrong derivative':>18} {'seconds':>9}"]
    for solver in dict.fromkeys(row[2] for row in rows if row[2] not in NO_SOLVERS):
        mine = [row for row in rows if row[2] == solver]
        reached = sum(bool(row[4] <= best.get(row[0], np.inf) + CLOSE * (1 + abs(best.get(row[0], 0)))) for row in mine)
        wrong = [sum(bool(row[column]) for row in mine) for column in (5, 6)]
        taken = sum(row[8] for row in mine if row[8] != "")
        lines.append(f"{solver:12} {reached:8} {len(mine):4} {wrong[0]:14} {wrong[1]:18} {taken:9.2f}")
    return "\n".join(lines)


def table(settings: argparse.Namespace, name: str) -> Path:
    """Where the rows go; those of a few problems by name do not go into the committed table."""
    if settings.problems and not settings.out:
        return Path(tempfile.mkdtemp()) / name
    return folder(settings, HERE) / name


def main() -> None:
    arguments = parser(__doc__, "four problems")
    arguments.add_argument("--kind", choices=("none", "bounded"), nargs="*", default=["none", "bounded"])
    arguments.add_argument("--problems", nargs="*")
    arguments.add_argument("--unknowns", type=int, default=32)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--work", action="store_true", help="be the process that solves")
    settings = arguments.parse_args()
    if cutest_problems.folder() is None:
        sys.exit(ABSENT)
    if settings.work:

        def answer(name: str) -> list[list[Any]]:
            asked = cutest_problems.problem(kind, name)
            return solved(name, kind, asked) if asked.num_variables() <= settings.unknowns else []

        kind = settings.kind[0]
        return work(answer)
    chosen = settings.problems or (list(FEW) if settings.smoke else None)
    kinds = ["none"] if settings.smoke else settings.kind
    for kind in kinds:
        names = [name for name in cutest_problems.listed(kind) if chosen is None or name in chosen]
        path = table(settings, f"cutest_{kind}.csv")
        rows = run(names, settings.seconds, path, COLUMNS, "--kind", kind, "--unknowns", str(settings.unknowns))
        print(f"bounds: {kind}\n{summary(rows)}")
    return None


if __name__ == "__main__":
    main()
