"""Problems of CUTEst with constraints, as sif2jax states them, by `bl.Auto()` from their own starts.

    python experiments/judges/cutest_constrained.py                      up to 12 unknowns; sif2jax installed
    python experiments/judges/cutest_constrained.py --problems HS29 HS39
    python experiments/judges/cutest_constrained.py --unknowns 32

Ours is `bl.InnerProblem(constraint=bl.Functional(...))` with all defaults; finite bounds are rows of the inequality.
Peers: SciPy's SLSQP and trust-constr with exact derivatives. Optimistix has no solver for constraints.

solved: feasible to 1e-6 (of 1 + the size of the point), and the objective within 1e-6 of the least that any of them
found there or the collection gives, relative to 1 + that. wrong status: `converged` or `stalled` at a point that is not
feasible to 1e-6, or where no multipliers of the active rows balance the gradient to 1e-4 of the larger of 1 and it;
`infeasible` where any of them found a feasible point. Each problem has ``--seconds`` in a process beside this one; what
takes longer, or ends it, is a row that says so. Rows are written as they come, and a run that was cut off goes on.

Not counted: problems that take too long, and those that are unbounded as the collection states them, because a solver
found a feasible point below -1e9. A line says at how many of these ours has the status `unbounded`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import cutest
import cutest_problems
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import parser

CLOSE, FEASIBLE = 1e-6, 1e-6
UNBOUNDED = -1e9
FEW = ("HS21", "HS29", "HS39", "HS71")  # of --smoke
COLUMNS = ("problem", "unknowns", "solver", "status", "objective", "violation", "wrong_status", "first", "seconds")


def solved(name: str, unknowns: int) -> list[list[Any]]:
    """The rows of a problem; none where it has too many unknowns."""
    from cutest_constrained_solvers import SOLVERS, flattened, judged

    problem = cutest_problems.problem("constrained", name)
    if problem.num_variables() > unknowns:
        return []
    program = flattened(problem)
    rows: list[list[Any]] = []
    for solver, made in SOLVERS.items():
        run = made(program)
        began = time.perf_counter()
        try:
            run()
        except Exception as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())[:100]
            rows.append([name, program.start.size, solver, words, np.nan, np.nan, "", "", ""])
            continue
        first = time.perf_counter() - began
        began = time.perf_counter()
        y, status = run()
        seconds = time.perf_counter() - began
        value, violation = (float(part) for part in program.measured(y))
        wrong = judged(program, y, status) if solver == cutest.OURS else ""
        rows.append([name, y.size, solver, status, value, violation, wrong, round(first, 3), round(seconds, 4)])
    known = problem.expected_objective_value
    expected = "" if known is None else float(np.asarray(known))
    return [*rows, [name, program.start.size, "collection", "", expected, 0.0, "", "", ""]]


def summary(rows: list[list[Any]]) -> str:
    """A line a solver: problems solved of those counted, statuses that are wrong, seconds; then what each missed, and
    the problems that are not counted."""
    late = {row[0] for row in rows if str(row[3]).startswith("not within")}
    feasible = [row for row in rows if row[4] != "" and np.isfinite(row[4]) and row[5] <= FEASIBLE]
    below = {row[0] for row in feasible if row[4] < UNBOUNDED}
    best: dict[str, float] = {}
    for row in feasible:
        best[row[0]] = min(best.get(row[0], np.inf), row[4])
    reached = [row for row in feasible if row[4] <= best[row[0]] + CLOSE * (1 + abs(best[row[0]]))]
    found = {row[0] for row in feasible if row[2] != "collection"}
    lines = [f"{'solver':14} {'solved':>8} {'of':>4} {'wrong status':>14} {'seconds':>9}"]
    solved: dict[str, set[str]] = {}
    asked: set[str] = set()
    for solver in dict.fromkeys(row[2] for row in rows if row[2] not in cutest.NO_SOLVERS):
        mine = [row for row in rows if row[2] == solver and row[0] not in late]
        wrong = sum(bool(row[6]) or (row[3] == "infeasible" and row[0] in found) for row in mine)
        counted = {row[0] for row in mine} - below
        asked |= counted
        solved[solver] = {row[0] for row in reached if row[2] == solver} & counted
        taken = sum(row[8] for row in mine if row[8] != "" and row[0] in counted)
        lines.append(f"{solver:14} {len(solved[solver]):8} {len(counted):4} {wrong:14} {taken:9.2f}")
    nobody = asked - set().union(*solved.values())
    lines.append(f"solved by none: {' '.join(sorted(nobody))}")
    lines += [f"missed by {solver}: {' '.join(sorted(asked - nobody - own))}" for solver, own in solved.items()]
    said = {row[0] for row in rows if row[2] == cutest.OURS and row[3] == "unbounded"}
    lines.append(f"unbounded as stated: {len(below)}, where {cutest.OURS} says so: {len(below & said)}")
    lines.append(f"unbounded by {cutest.OURS} alone: {' '.join(sorted(said - below)) or 'none'}")
    return "\n".join([*lines, f"not in time: {' '.join(sorted(late))}"])


def main() -> None:
    arguments = parser(__doc__, "four problems")
    arguments.add_argument("--problems", nargs="*")
    arguments.add_argument("--unknowns", type=int, default=12)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--work", action="store_true", help="be the process that solves")
    settings = arguments.parse_args()
    if cutest_problems.folder() is None:
        sys.exit(cutest.ABSENT)
    if settings.work:
        return cutest.work(lambda name: solved(name, settings.unknowns), numbers=2)
    chosen = settings.problems or (list(FEW) if settings.smoke else None)
    names = [name for name in cutest_problems.listed("constrained") if chosen is None or name in chosen]
    path = cutest.table(settings, "cutest_constrained.csv")
    rows = cutest.run(names, settings.seconds, path, COLUMNS, "--unknowns", str(settings.unknowns))
    print(summary(rows))
    return None


if __name__ == "__main__":
    main()
