"""What warm starts are worth: each family x solver x path, the warm arm against its own cold arm.

    python experiments/solvers/warm_start.py [--points 5]

Along a path of hyperparameters each problem is solved twice at the same tolerance: from the solution before, and from
the cold start. Printed and written to warm_start.csv: total steps, products and processor seconds of both arms
(the first point, where both are cold, left out), and `regression` where the warm arm took more products than the cold.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark import LONG, name_of
from peers.protocol import processor_seconds
from problems import PROBLEMS, Problem

import bilevel as bl

FAMILIES = {
    "ridge": ("ridge", lambda h, t: h - t),
    "logistic": ("logistic", lambda h, t: h - t),
    "lasso": ("lasso correlated", lambda h, t: h - t),
    "elastic net": ("elastic net", lambda h, t: h - t),
    "group lasso": ("group lasso", lambda h, t: h - t),
    "SVM dual": ("SVM dual", lambda h, t: h + t),
    "box QP": ("box QP", lambda h, t: h + t),
    "portfolio": ("portfolio", lambda h, t: h + t),
    "QP": ("QP", lambda h, t: h + t),
}
PATHS = {"small steps": 0.01, "large steps": 0.3}  # of the logarithm of the hyperparameter


@dataclass(frozen=True)
class Row:
    family: str
    solver: str
    path: str
    warm_steps: int
    cold_steps: int
    warm_products: int  # gradients and products with the Hessian
    cold_products: int
    warm_seconds: float
    cold_seconds: float
    largest_difference: float  # of the solutions of the two arms, relative
    verdict: str


def measure(family: str, problem: Problem, solver: bl.Solver, points: int) -> Iterator[Row]:
    move = FAMILIES[family][1]
    inner = problem.inner.with_solver(solver)
    solve = jax.jit(lambda h, start, batch: inner.solve(h, batch, init=start))
    cold_start = inner.cold_start(jax.random.key(0), problem.hparams, problem.batch)
    jax.block_until_ready(solve(jnp.asarray(problem.hparams), cold_start, problem.batch))
    for path, step in PATHS.items():
        costs, start, difference = [], cold_start, 0.0
        for point in range(points):
            h = jnp.asarray(move(problem.hparams, step * point))
            (warm, *warm_cost), (cold, *cold_cost) = (timed(solve, h, at, problem.batch) for at in (start, cold_start))
            gap = jnp.linalg.norm(warm.params - cold.params) / (1 + jnp.linalg.norm(cold.params))
            difference = max(difference, float(gap))
            start = bl.PrimalDual(warm.params, *warm.dual) if isinstance(cold_start, bl.PrimalDual) else warm.params
            costs.append([value for pair in zip(warm_cost, cold_cost, strict=True) for value in pair])
        totals = np.sum(costs[1:], axis=0)
        verdict = "regression" if totals[2] > totals[3] else f"{totals[3] / max(totals[2], 1):.1f} times fewer products"
        found: list[Any] = [*map(int, totals[:4]), *map(float, totals[4:]), difference, verdict]
        yield Row(family, name_of(solver), path, *found)


def timed(solve: Any, *args: Any) -> tuple[bl.Solution, int, int, float]:
    seconds, solution = processor_seconds(lambda: jax.block_until_ready(solve(*args)), repeats=1, long=LONG)
    return solution, int(solution.steps), int(solution.counts.gradients + solution.counts.hessian_products), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES), metavar="NAME")
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "warm_start.csv")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    with arguments.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Row.__dataclass_fields__)
        for family in arguments.families:
            problem = PROBLEMS[FAMILIES[family][0]]()
            for solver in (*problem.solvers, bl.Auto()):
                for row in measure(family, problem, solver, arguments.points):
                    table.writerow(astuple(row))
                    file.flush()
                    print(
                        f"{row.family:13s}{row.solver:36s}{row.path:13s}"
                        f"steps {row.warm_steps:6d} / {row.cold_steps:6d}   "
                        f"products {row.warm_products:7d} / {row.cold_products:7d}   "
                        f"{1e3 * row.warm_seconds:9.1f} / {1e3 * row.cold_seconds:9.1f} ms   {row.verdict}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
