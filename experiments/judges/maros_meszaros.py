"""The dense part of the Maros-Meszaros collection of convex quadratic programs, Clarabel beside `bl.quadratic_program`,
which gets the matrices dense, and sparse for `bl.SparseInteriorPoint`.

    BILEVEL_DATA=DIR python experiments/judges/maros_meszaros.py
    BILEVEL_DATA=DIR python experiments/judges/maros_meszaros.py --problems VALUES QSHARE1B

A problem is solved to an accuracy where its primal residual, its dual residual and its duality gap, none of them
relative to anything, are all below it (Caron et al., qpbenchmark, 2024). A status is wrong where `converged` or
`stalled` is said of an answer that is worse than 1e-3 of the size of its terms, or no answer of a problem that has one,
and where a problem that is not convex is not refused. Clarabel is run at each of the accuracies and has its best.
Problems go from small to large, and the table is written after each. ``seconds`` is one solve; what XLA takes to
compile the program of a problem, once for its shapes, is ``compilation``, in seconds of the processor. LAPACK has one
thread, as Clarabel has, because beside other work its threads wait for each other (a factor of 40 on two cores).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before LAPACK is loaded

import jax
import numpy as np
import scipy.io
import scipy.sparse
from jax.experimental.sparse import BCOO

import bilevel as bl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import folder, parser, write

HERE = Path(__file__).resolve().parent
ACCURACIES = (1e-3, 1e-6, 1e-9)
NO_BOUND = 9e19
COLUMNS = ("problem", "solver", "status", "primal", "dual", "gap", "relative", "objective", "seconds", "compilation")
SMALL = ("DUALC1", "GENHS28", "HS118", "HS21", "HS268", "HS35MOD", "HS76", "LOTSCHD", "QAFIRO", "TAME", "ZECEVIC2")


@dataclass(frozen=True)
class Problem:
    """min 1/2 x'Px + q'x, A x = b, G x <= h, dense."""

    name: str
    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    G: np.ndarray
    h: np.ndarray

    @property
    def data(self) -> tuple[np.ndarray, ...]:
        return self.P, self.q, self.A, self.b, self.G, self.h

    @property
    def convex(self) -> bool:
        values = np.linalg.eigvalsh(self.P)
        return bool(values[0] >= -1e-8 * max(1.0, values[-1]))


class Answer(NamedTuple):
    """A point with multipliers of L = 1/2 x'Px + q'x + y'(Ax - b) + z'(Gx - h)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    status: str


class Judgement(NamedTuple):
    """The absolute errors of an answer, and the largest of them relative to the size of its terms."""

    primal: float
    dual: float
    gap: float
    relative: float
    objective: float

    @property
    def worst(self) -> float:
        errors = np.array([self.primal, self.dual, self.gap])
        return float(errors.max()) if np.all(np.isfinite(errors)) else float("inf")


def load(path: Path) -> Problem:
    """A problem of the collection, l <= A x <= u split into equalities and one-sided rows."""
    stored = scipy.io.loadmat(path)
    rows, lower, upper = stored["A"].toarray(), stored["l"].ravel(), stored["u"].ravel()
    fixed = lower == upper
    above, below = ~fixed & (upper < NO_BOUND), ~fixed & (lower > -NO_BOUND)
    G, h = np.concatenate([rows[above], -rows[below]]), np.concatenate([upper[above], -lower[below]])
    return Problem(path.stem, stored["P"].toarray(), stored["q"].ravel(), rows[fixed], lower[fixed], G, h)


def judge(problem: Problem, answer: Answer) -> Judgement:
    P, q, A, b, G, h = problem.data
    x, y, z = answer.x, answer.y, np.maximum(answer.z, 0)
    terms = P @ x, q, A.T @ y, G.T @ z
    primal = max(size(A @ x - b), size(np.maximum(G @ x - h, 0)))
    dual = max(size(terms[0] + terms[1] + terms[2] + terms[3]), size(np.minimum(answer.z, 0)))
    parts = x @ P @ x, q @ x, b @ y, h @ z
    gap = float(abs(sum(parts)))
    scales = size(A @ x, b, G @ x, h), size(*terms), abs(parts[0]) / 2 + abs(parts[1])
    errors = np.array([primal, dual, gap]) / (1 + np.array(scales))
    return Judgement(primal, dual, gap, float(np.max(errors)), float(parts[0] / 2 + parts[1]))


def size(*parts: np.ndarray) -> float:
    return max(float(np.max(np.abs(part), initial=0)) for part in parts)


def ours(problem: Problem, sparse: bool) -> tuple[Callable[[], Answer], float]:
    """`bl.quadratic_program`, compiled, and the seconds that this took the processor; with ``sparse`` of matrices of
    which only the entries are stored, by our own factors."""
    data, solver = problem.data, bl.SparseInteriorPoint() if sparse else bl.Auto()
    if sparse:
        data = tuple(BCOO.fromdense(jax.numpy.asarray(part)) if part.ndim == 2 else part for part in data)
    began = time.process_time()
    solve = jax.jit(partial(bl.quadratic_program, solver=solver)).lower(*data).compile()
    compilation = time.process_time() - began

    def run() -> Answer:
        found = jax.block_until_ready(solve(*data))
        x, y, z = (np.asarray(part) for part in (found.params, *found.dual))
        return Answer(x, y, z, found.status.name)

    return run, compilation


def clarabel(problem: Problem, tol: float) -> Callable[[], Answer]:
    import clarabel

    package: Any = clarabel  # which tells checkers of none of its classes
    P, q, A, b, G, h = problem.data
    options = package.DefaultSettings()
    options.verbose, options.tol_feas, options.tol_gap_abs, options.tol_gap_rel = False, tol, tol, 0.0
    cones = [package.ZeroConeT(b.size), package.NonnegativeConeT(h.size)]
    sparse = scipy.sparse.csc_matrix(np.triu(P)), scipy.sparse.csc_matrix(np.concatenate([A, G]))

    def run() -> Answer:
        solver = package.DefaultSolver(sparse[0], q, sparse[1], np.concatenate([b, h]), cones, options)
        found = solver.solve()
        duals = np.asarray(found.z)
        return Answer(np.asarray(found.x), duals[: b.size], duals[b.size :], str(found.status).rpartition(".")[2])

    return run


def timed(run: Callable[[], Answer]) -> tuple[Answer, float]:
    began = time.perf_counter()
    return run(), time.perf_counter() - began


def rows_of(problem: Problem) -> list[tuple]:
    """A row of results for each solver."""
    dense, sparse = ours(problem, sparse=False), ours(problem, sparse=True)
    arms = [timed(clarabel(problem, tol)) for tol in ACCURACIES]
    best = min(arms, key=lambda arm: judge(problem, arm[0]).worst)
    found = [
        ("bilevel", *timed(dense[0]), dense[1]), ("sparse", *timed(sparse[0]), sparse[1]), ("clarabel", *best, 0.0)
    ]  # fmt: skip
    return [
        (problem.name, solver, answer.status, *(float(f"{v:.3g}") for v in judge(problem, answer)), *times(*clocks))
        for solver, answer, *clocks in found
    ]


def times(seconds: float, compilation: float) -> tuple[float, float]:
    return round(seconds, 4), round(compilation, 1)


def wrong(row: dict, convex: bool) -> bool:
    """Whether a status of ours says what is not so."""
    solved = row["status"] in ("converged", "stalled")
    return solved != (convex and row["relative"] <= 1e-3) if solved or row["status"] in PROOFS else False


PROOFS = ("infeasible", "unbounded")


def summary(rows: list[dict], nonconvex: set[str]) -> str:
    lines = [f"{'':10} {'1e-3':>6} {'1e-6':>6} {'1e-9':>6} {'wrong status':>13} {'seconds':>8}"]
    for solver in ("bilevel", "sparse", "clarabel"):
        mine = [row for row in rows if row["solver"] == solver]
        worst = [max(row["primal"], row["dual"], row["gap"]) for row in mine]
        solved = [sum(error <= tol for error in worst) for tol in ACCURACIES]
        bad = sum(wrong(row, row["problem"] not in nonconvex) for row in mine) if solver != "clarabel" else "-"
        lines.append(f"{solver:10} {solved[0]:6} {solved[1]:6} {solved[2]:6} {bad:>13} {total(mine):8.2f}")
    return "\n".join(lines)


def total(rows: list[dict]) -> float:
    return sum(row["seconds"] for row in rows)


def data_folder() -> Path:
    found = Path(os.environ.get("BILEVEL_DATA", HERE.parents[2] / "shared" / "data")) / "maros-meszaros"
    if not found.is_dir():
        sys.exit(
            f"The Maros-Meszaros problems are not at {found}: set BILEVEL_DATA to the folder that has "
            "maros-meszaros/*.mat (from qpsolvers/maros_meszaros_qpbenchmark)."
        )
    return found


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    arguments = parser(__doc__, "eleven of the smallest problems")
    arguments.add_argument("--problems", nargs="*", help="by name; by default all that are there")
    settings = arguments.parse_args()
    names = settings.problems or (SMALL if settings.smoke else None)
    paths = [path for path in data_folder().glob("*.mat") if names is None or path.stem in names]
    table = folder(settings, HERE) if settings.problems is None or settings.out else None
    found: list[tuple] = []
    nonconvex = set()
    for problem in sorted(map(load, paths), key=lambda problem: problem.q.size + problem.b.size + problem.h.size):
        nonconvex |= set() if problem.convex else {problem.name}
        found += rows_of(problem)
        for row in found[-3:]:
            print(" ".join(f"{value!s:>12}" for value in row), flush=True)
        if table:
            write(table / "maros_meszaros.csv", COLUMNS, found)
        jax.clear_caches()
    print(summary([dict(zip(COLUMNS, row, strict=True)) for row in found], nonconvex))


if __name__ == "__main__":
    main()
