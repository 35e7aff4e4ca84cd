"""Solvers among themselves: time to a true residual of 1e-3, 1e-6 and 1e-9, and whether bl.Auto() chose well.

    python experiments/solvers/benchmark.py [--problems lasso "box QP"] [--repeats 5]

The residual is the natural one of the problem relative to the cold start, computed by each solve from its final params.
Times are processor seconds of the compiled solve (all threads), the least of the repeats; compilation is a column of
its own. A solver that misses a residual has no time there.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from problems import PROBLEMS, Problem

import bilevel as bl

TARGETS = (1e-3, 1e-6, 1e-9)


@dataclass(frozen=True)
class Row:
    problem: str
    solver: str
    target: float
    seconds: float  # NaN: the residual was not reached
    residual: float
    steps: int
    gradients: int
    compile_seconds: float


def name_of(solver: bl.Solver) -> str:
    inside = getattr(solver, "solver", None)
    return type(solver).__name__ + (f"({type(inside).__name__})" if isinstance(inside, bl.Solver) else "")


def native(name: str, problem: Problem, solver: bl.Solver, repeats: int) -> Iterator[Row]:
    """The rows of one solver of this library: compiled once, the tolerance being a traced value."""
    chosen = problem.inner.with_solver(solver)

    @jax.jit
    def solve(tol: jax.Array, hparams: object, batch: object) -> bl.Solution:
        return chosen.with_solver(replace(solver, tol=tol)).solve(hparams, batch)  # type: ignore[type-var]

    began = time.process_time()
    jax.block_until_ready(solve(0.5, problem.hparams, problem.batch))
    compiling = time.process_time() - began
    for target in TARGETS:
        least = float("inf")
        for _ in range(repeats):
            began = time.process_time()
            solution = jax.block_until_ready(solve(target, problem.hparams, problem.batch))
            least = min(least, time.process_time() - began)
        reached = float(solution.residual) <= target
        yield Row(
            name, name_of(solver), target, least if reached else float("nan"), float(solution.residual),
            int(solution.steps), int(solution.counts.gradients), compiling,
        )  # fmt: skip


def measure(names: list[str], repeats: int) -> Iterator[Row]:
    for name in names:
        problem = PROBLEMS[name]()
        for solver in (*problem.solvers, bl.Auto()):
            yield from native(name, problem, solver, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results.csv")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    with arguments.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Row.__dataclass_fields__)
        for row in measure(arguments.problems, arguments.repeats):
            table.writerow([getattr(row, field) for field in Row.__dataclass_fields__])
            file.flush()
            print(
                f"{row.problem:20s}{row.solver:38s}{row.target:8.0e}{1e3 * row.seconds:12.2f} ms{row.residual:12.1e}"
                f"{row.steps:7d} steps{row.gradients:8d} gradients{row.compile_seconds:7.1f} s compiling",
                flush=True,
            )


if __name__ == "__main__":
    main()
