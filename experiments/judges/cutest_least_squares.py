"""Nonlinear equations of CUTEst, as sif2jax states them, as least squares from their own starts.

    python experiments/judges/cutest_least_squares.py                       up to 12 unknowns; sif2jax installed
    python experiments/judges/cutest_least_squares.py --problems BOXBOD HATFLDF
    python experiments/judges/cutest_least_squares.py --unknowns 100

Many have more equations than unknowns (those of NIST's data, for instance), so that a sum of squares remains. Ours is
`bl.InnerProblem(loss=bl.LeastSquares(...))` with all defaults, in a `bl.Box` where there are bounds. Peers: SciPy's
``least_squares`` with ``x_scale="jac"`` and, without bounds, Optimistix' LevenbergMarquardt, both at tolerances of
1e-12 and 1000 steps at most.

solved: 1/2 ||r||^2 within 1e-8 of the least that any of them found, relative to 1 + that. wrong status: `converged` or
`stalled` where a Newton step would lower it by more than 1e-4 of 1 + the value, or a curvature is negative. Each
problem has ``--seconds`` in a process beside this one; what takes longer, or ends it, is a row that says so.
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

CLOSE = 1e-8
FEW = ("BOOTH", "BOXBOD", "HATFLDF", "POWELLBSQ")  # of --smoke


def solved(name: str, unknowns: int) -> list[list[Any]]:
    """The rows of a problem; none where it has too many unknowns."""
    import jax
    import jax.numpy as jnp
    from cutest_solvers import judged
    from cutest_squares_solvers import SOLVERS, flattened

    problem = cutest_problems.problem("equations", name)
    if problem.num_variables() > unknowns:
        return []
    residual, start, bounds = flattened(problem)
    bounded = bool(np.isfinite(np.stack([np.asarray(side) for side in bounds])).any())
    cost = lambda y: 0.5 * jnp.sum(residual(y) ** 2)
    rows = []
    for solver, made in SOLVERS.items():
        if (run := made(residual, start, bounds, bounded)) is None:
            continue
        began = time.perf_counter()
        try:
            run()
        except Exception as error:
            if solver == cutest.OURS:
                raise
            rows.append([name, start.size, solver, f"refuses: {error}"[:100], float("nan"), "", "", "", ""])
            continue
        first = time.perf_counter() - began
        began = time.perf_counter()
        y, status, steps = run()
        seconds = time.perf_counter() - began
        slope, tilt = (np.nan, np.inf), np.zeros(start.size)
        wrong = judged(cost, bounds, y, tilt, status, slope)[0] if solver == cutest.OURS else ""
        value = float(jax.jit(cost)(y))
        rows.append([name, start.size, solver, status, value, wrong, steps, round(first, 3), round(seconds, 4)])
    return rows


def summary(rows: list[list[Any]]) -> str:
    """A line a solver: problems solved of those that it was asked for, statuses that are wrong, steps, seconds."""
    best: dict[str, float] = {}
    for row in rows:
        if row[4] != "" and np.isfinite(row[4]):
            best[row[0]] = min(best.get(row[0], np.inf), row[4])
    lines = [f"{'solver':12} {'solved':>8} {'of':>4} {'wrong status':>14} {'steps':>9} {'seconds':>9}"]
    for solver in dict.fromkeys(row[2] for row in rows if row[2] != cutest.SKIPPED):
        mine = [row for row in rows if row[2] == solver]
        reached = sum(bool(row[4] <= best.get(row[0], np.inf) + CLOSE * (1 + best.get(row[0], 0))) for row in mine)
        wrong, steps = sum(bool(row[5]) for row in mine), sum(row[6] for row in mine if row[6] != "")
        taken = sum(row[8] for row in mine if row[8] != "")
        lines.append(f"{solver:12} {reached:8} {len(mine):4} {wrong:14} {steps:9.0f} {taken:9.2f}")
    return "\n".join(lines)


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
        return cutest.work(lambda name: solved(name, settings.unknowns))
    chosen = settings.problems or (list(FEW) if settings.smoke else None)
    names = [name for name in cutest_problems.listed("equations") if chosen is None or name in chosen]
    path = cutest.table(settings, "cutest_least_squares.csv")
    columns = (*cutest.COLUMNS[:6], "steps", *cutest.COLUMNS[7:])
    rows = cutest.run(names, settings.seconds, path, columns, "--unknowns", str(settings.unknowns))
    print(summary(rows))
    return None


if __name__ == "__main__":
    main()
