"""Solvers among themselves and against other packages: time to a true residual of 1e-3, 1e-6 and 1e-9.

    python experiments/solvers/benchmark.py [--problems lasso "box QP"] [--peers osqp qpax=ENV/bin/python] [--docs]

The residual is the natural one of the problem relative to the cold start, computed by this library at the final
params, of its own solvers and of peers alike. Times are processor seconds of a solve (all threads), the least of the
repeats (short solves averaged over 20 ms of them), without compilation, which is a column of its own. Own solvers are
asked for the residual; peers, whose tolerances mean something else, are run at every decade from 1e-1 to 1e-14, with
every setting of theirs, and the least time at which the true residual was reached counts. A solver that misses a
residual has no time there. At the end: whether bl.Auto() is within 1.5 times of the best own solver. Peers that need
another environment name its interpreter (see README.md).
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import jax
from peer_runs import PEERS, Found, run_peers
from peers.protocol import processor_seconds
from problems import PROBLEMS, Problem
from table import auto_check, markdown, text

import bilevel as bl

TARGETS = (1e-3, 1e-6, 1e-9)
LONG = 0.5  # seconds beyond which a solve is not repeated
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    problem: str
    solver: str
    target: float
    seconds: float  # NaN: the residual was not reached
    residual: float
    steps: int = 0  # of own solvers
    gradients: int = 0
    compile_seconds: float = 0.0


def name_of(solver: bl.Solver) -> str:
    inside = getattr(solver, "solver", None)
    return type(solver).__name__ + (f"({type(inside).__name__})" if isinstance(inside, bl.Solver) else "")


def native(name: str, problem: Problem, solver: bl.Solver, repeats: int) -> Iterator[Row]:
    """The rows of one solver of this library: compiled once, the tolerance being a traced value."""
    chosen = problem.inner.with_solver(solver)

    @jax.jit
    def solve(tol: jax.Array, hparams: object, batch: object) -> bl.Solution:
        return chosen.with_solver(replace(solver, tol=tol)).solve(hparams, batch)

    began = time.process_time()
    jax.block_until_ready(solve(0.5, problem.hparams, problem.batch))
    compiling = time.process_time() - began
    for target in TARGETS:
        least, solution = processor_seconds(
            lambda target=target: jax.block_until_ready(solve(target, problem.hparams, problem.batch)), repeats, LONG
        )
        reached = float(solution.residual) <= target
        yield Row(
            name, name_of(solver), target, least if reached else math.nan, float(solution.residual),
            int(solution.steps), int(solution.counts.gradients), compiling,
        )  # fmt: skip


def own(problems: list[str], repeats: int) -> Iterator[Row]:
    for name in problems:
        problem = PROBLEMS[name]()
        for solver in (*problem.solvers, bl.Auto()):
            yield from native(name, problem, solver, repeats)


def of_peers(found: list[Found]) -> Iterator[Row]:
    """The best time of each peer's solver to each residual; where it missed one, the residual it ended at."""
    for problem, solver in dict.fromkeys((one.problem, one.solver) for one in found):
        runs = [one for one in found if (one.problem, one.solver) == (problem, solver)]
        for target in TARGETS:
            hits = [one for one in runs if one.residual <= target]
            best = min(hits, key=lambda one: one.seconds) if hits else min(runs, key=lambda one: one.residual)
            yield Row(problem, solver, target, best.seconds if hits else math.nan, best.residual)


def interpreters(given: list[str]) -> dict[str, str]:
    """NAME or NAME=INTERPRETER, the default being this one."""
    pairs = [one.partition("=") for one in given]
    unknown = [name for name, _, _ in pairs if name not in PEERS]
    if unknown:
        raise SystemExit(f"No peer {', '.join(unknown)}: there are {', '.join(PEERS)}.")
    return {name: python or sys.executable for name, _, python in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--peers", nargs="*", default=["clarabel", "osqp", "scipy", "sklearn"], metavar="NAME[=PYTHON]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results.csv")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/solvers.md")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    peers = interpreters(arguments.peers)
    with arguments.output.open("w", newline="") as file:
        results = csv.writer(file)
        results.writerow(Row.__dataclass_fields__)
        rows = []
        for row in own(arguments.problems, arguments.repeats):
            rows.append(row)
            results.writerow(astuple(row))
            file.flush()
            print(text(row), flush=True)
        for row in of_peers(list(run_peers(arguments.problems, peers))):
            rows.append(row)
            results.writerow(astuple(row))
            print(text(row), flush=True)
    print("\n" + auto_check(rows))
    if arguments.docs:
        markdown(rows, HERE.parents[1] / "docs" / "solvers.md")


if __name__ == "__main__":
    main()
