"""Stochastic engines on the protocol of benchmark_bilevel: the suboptimality of the value function by oracle calls and
by seconds, with step sizes from one grid.

python -m experiments.stochastic.benchmark [--problem quadratics] [--engines 'SOBA;SABA'] [--out DIR] [--smoke]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
from bilevel.engines import Engine, Point
from bilevel.foundation.closures import hoisted
from experiments import common
from experiments.stochastic.ijcnn1 import Logistic
from experiments.stochastic.quadratics import quadratics

BATCH = 64
CHECKPOINTS = 12
AFTER = 100.0  # the steps that the first size of a power law lasts
COLUMNS = ("problem", "engine", "step_size", "ratio", "steps", "calls", "seconds", "suboptimality", "gradient_norm")


class Grid(NamedTuple):
    """Inner step sizes, and outer ones over inner ones."""

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]


# Calls after which SOBA with the best constant steps of the grid is at its floor: before, SABA need not be below it.
FLOORS = {"quadratics": 12_000, "ijcnn1": 4_000_000}
GRIDS = {"quadratics": Grid((0.05, 0.1, 0.2), (0.1, 1.0)), "ijcnn1": Grid((0.5, 1.0), (1.0, 10.0, 100.0))}


class Passes(NamedTuple):
    """Passes over all data, one at the first outer step and then one every so often."""

    inner: int  # calls of a pass for each minibatch of the inner level, beside one for each of the outer level
    steps: int = 0  # between two passes
    epochs: float = 0.0  # instead: those of both levels together between two passes

    def period(self, first: Point) -> int:
        """The outer steps between two passes."""
        return self.steps or round(self.epochs * (first.inner_batch.blocks + first.outer_batch.blocks))

    def calls(self, first: Point) -> int:
        """The oracle calls of a pass."""
        return self.inner * first.inner_batch.blocks + first.outer_batch.blocks


class Method(NamedTuple):
    """An engine by its step size, the power with which its steps decrease, and the oracle calls of a step."""

    engine: Callable[[Any], Engine]
    calls: float  # minibatch gradients and products, both levels, on average
    power: float = 0.0  # of the outer step too
    of_samples: bool = False  # whether it counts gradients of single samples, which are as many calls as their batch
    passes: Passes | None = None  # runs with passes are taken one by one, because side by side each pays at each step
    instead: bool = False  # whether a pass takes the place of a step's calls

    def of(self, size: Any, first: Point) -> Engine:
        """The engine with this step size, and with the period of its passes."""
        engine: Any = self.engine(size)
        return replace(engine, period=self.passes.period(first)) if self.passes else engine

    def cost(self, first: Point) -> float:
        """The oracle calls of an outer step, on average over a period."""
        if not self.passes:
            return self.calls
        spared = self.calls if self.instead else 0
        return self.calls + (self.passes.calls(first) - spared) / self.passes.period(first)


def law(power: float, **fields: Any) -> Callable[[type], Callable[[Any], Engine]]:
    """An engine class with decreasing inner steps; the adjoint steps of a Neumann series stay as they are."""

    def of(kind: type) -> Callable[[Any], Engine]:
        return lambda size: kind(bl.PowerLaw(size, power, AFTER), **{**{"adjoint_step": size}, **fields})

    return of


def single(kind: type, power: float, **fields: Any) -> Callable[[Any], Engine]:
    """Both step sizes decrease alike."""

    def of(size: Any) -> Engine:
        step = bl.PowerLaw(size, power, AFTER)
        return kind(step, step, **fields)

    return of


SHARE = bl.PowerLaw(0.5, 0.5, AFTER)
METHODS = {
    "SOBA": Method(lambda a: bl.SOBA(a, a), 4),
    "SOBA, decreasing": Method(single(bl.SOBA, 0.5), 4, 0.5),
    "MASOBA": Method(single(bl.MASOBA, 0.5, share=SHARE), 4, 0.5),
    "SABA": Method(lambda a: bl.SABA(a, a), 4, of_samples=True),
    "SRBA": Method(lambda a: bl.SRBA(a, a), 8, passes=Passes(inner=3, epochs=0.5), instead=True),
    "FSLA": Method(single(bl.FSLA, 0.5, share=SHARE), 7, 0.5),
    "TTSA": Method(law(0.4)(bl.TTSA), 9.5, 0.6),
    "BSA": Method(law(0.5)(bl.BSA), 18.5, 0.5),
    "SUSTAIN": Method(law(1 / 3, share=bl.PowerLaw(0.5, 2 / 3, AFTER))(bl.SUSTAIN), 15, 1 / 3),
    "MRBO": Method(law(1 / 3, share=bl.PowerLaw(0.5, 2 / 3, AFTER))(bl.MRBO), 26, 1 / 3),
    "VRBO": Method(lambda a: bl.VRBO(a, a), 78, passes=Passes(inner=12, steps=22)),
    "AmIGO": Method(lambda a: bl.AmIGO(a, a), 24),
    "StocBiO": Method(lambda a: bl.StocBiO(a, a), 24),
    "F2SA": Method(lambda a: bl.F2SA(bl.PowerLaw(a, 0.5, AFTER), increase=0.01), 34, 0.5),
    "BOME": Method(lambda a: bl.BOME(a, a), 13),
    "VPBGD": Method(lambda a: bl.VPBGD(a, bl.PowerLaw(2.0, -0.3, AFTER)), 13),
    "MEHA": Method(lambda a: bl.MEHA(a, bl.PowerLaw(2.0, -0.3, AFTER)), 4),
}


class Curve(NamedTuple):
    """The iterates of a run at its checkpoints, and the calls until there."""

    hparams: jax.Array  # (checkpoints, hyperparameters)
    calls: jax.Array


def first_point(task: bl.Task, key: jax.Array) -> Point:
    """The start of every run."""
    return Point(task.init_hparams(key), *task.batches(key, jnp.int32(0)), key=key)


def runner(task: bl.Task, method: Method, steps: int, key: jax.Array) -> Callable[[jax.Array, jax.Array], Curve]:
    """(inner size, outer size) -> the curve of a run with ``steps`` steps between two checkpoints."""

    def run(size: jax.Array, outer: jax.Array) -> Curve:
        first, decrease = first_point(task, key), bl.PowerLaw(outer, method.power, AFTER)
        engine = method.of(size, first)
        point = lambda step, hparams: Point(hparams, *task.batches(key, step), key=key)

        def turn(step: jax.Array, state: tuple) -> tuple:
            hparams, carry, calls = state
            _, grad, report = engine.hypergradient(task, point(step, hparams), carry)
            counts = report.counts
            calls = calls + counts.gradients + counts.hessian_products + counts.jacobian_products
            return hparams - decrease(step) * grad, report.carry, calls

        def part(state: tuple, number: jax.Array) -> tuple[tuple, tuple]:
            state = jax.lax.fori_loop(number * steps, (number + 1) * steps, turn, state)
            return state, (state[0], state[2])

        begin = (first.hparams, engine.first_carry(task, first), jnp.int32(0))
        return Curve(*jax.lax.scan(part, begin, jnp.arange(CHECKPOINTS))[1])

    return run


def compiled(function: Callable, *example: jax.Array) -> Callable:
    """The function as a program that takes the data as arguments: as constants they would be folded for seconds."""
    run, constants = hoisted(lambda arguments: function(*arguments), example)
    program = jax.jit(run).lower(constants, example).compile()
    return lambda *arguments: program(constants, arguments)


def best_of_grid(name: str, problem: Any, measure: Callable, tried: Grid, budget: int) -> list[tuple]:
    """The rows of the run of the grid that ends lowest."""
    method, key, task = METHODS[name], jax.random.key(0), problem.task(BATCH)
    first = first_point(task, key)
    steps = max(1, round(budget / method.cost(first) / CHECKPOINTS))
    grid = jnp.array([(size, ratio * size) for size in tried.sizes for ratio in tried.ratios])
    run = runner(task, method, steps, key)
    many = (lambda a, b: jax.lax.map(lambda pair: run(*pair), (a, b))) if method.passes else jax.vmap(run)
    curves = compiled(many, *grid.T)(*grid.T)
    last = np.array([measure(one)[0] for one in curves.hparams[:, -1]])
    best = int(np.argmin(np.where(np.isfinite(last), last, np.inf)))

    alone = compiled(run, *grid[best])
    begun = time.process_time()
    curve = jax.block_until_ready(alone(*grid[best]))
    seconds = time.process_time() - begun
    rows = []
    for number, (hparams, calls) in enumerate(zip(*curve, strict=True), 1):
        gap, norm = (float(figure) for figure in measure(hparams))
        spent = f"{seconds * number / CHECKPOINTS:.3f}"
        size, outer = (float(figure) for figure in grid[best])
        told = int(calls) // (BATCH if method.of_samples else 1)
        shown = (f"{size:g}", f"{outer / size:.3g}", number * steps, told, spent, f"{gap:.3e}", f"{norm:.3e}")
        rows.append((name, *shown))
    return rows


def problems(smoke: bool) -> dict[str, Any]:
    """The problems by name."""
    root = os.environ.get("BILEVEL_DATA", "")
    if smoke:
        return {"quadratics": quadratics(samples=128, unknowns=8, hyperparameters=4)}
    found: dict[str, Any] = {"quadratics": quadratics(hyperparameters=10)}
    return {**found, "ijcnn1": Logistic(root)} if root else found


def kept(results: Path, chosen: set[str], engines: set[str]) -> list[list[str]]:
    """The rows of earlier runs that this one does not take again."""
    rows = common.read(results) if results.exists() else []
    return [
        [row[name] for name in COLUMNS] for row in rows if row["problem"] not in chosen or row["engine"] not in engines
    ]


def main() -> None:
    """Runs the grid, writes results.csv as it goes, and checks what the rules claim."""
    settings = common.parser(__doc__, "three engines on small quadratics")
    settings.add_argument("--problem", help="one of them alone")
    settings.add_argument("--engines", default="", help="some of them, with semicolons")
    settings.add_argument("--budget", type=int, default=12_000, help="oracle calls of a run")
    asked = settings.parse_args()
    jax.config.update("jax_enable_x64", True)
    names = [name.strip() for name in asked.engines.split(";") if name.strip()] or list(METHODS)
    if unknown := [name for name in names if name not in METHODS]:
        raise SystemExit(f"--engines {unknown[0]}: choose from {'; '.join(METHODS)}.")
    if asked.smoke:
        names, asked.budget = ["SOBA", "SOBA, decreasing", "SABA"], 24_000
    out = common.folder(asked, Path(__file__).parent)
    results = out / "results.csv"
    chosen = {name: problem for name, problem in problems(asked.smoke).items() if asked.problem in (None, name)}
    if not chosen:
        raise SystemExit(f"--problem {asked.problem}: choose quadratics, or ijcnn1 with BILEVEL_DATA=DIR.")
    common.write(results, COLUMNS, kept(results, set(chosen), set(names)))
    for name, problem in chosen.items():
        measure = problem.measure()
        for engine in names:
            rows = best_of_grid(engine, problem, measure, GRIDS[name], asked.budget)
            for row in rows:
                common.append(results, (name, *row))
            print(name, *rows[-1], flush=True)
    from experiments.stochastic.figure import draw

    draw(results, out)
    check(common.read(results))


def check(rows: list[dict[str, str]]) -> None:
    """What the rules claim of the ends of the runs: variance reduction goes below the floor of constant steps."""
    ends = {(row["problem"], row["engine"]): row for row in rows}
    for problem in {row["problem"] for row in rows}:
        if {(problem, "SOBA"), (problem, "SABA")} <= set(ends):
            floor, reduced = (float(ends[problem, name]["suboptimality"]) for name in ("SOBA", "SABA"))
            short = float(ends[problem, "SOBA"]["calls"]) < 0.99 * FLOORS[problem]  # steps are rounded
            assert short or reduced < floor, f"{problem}: SABA ends at {reduced}, SOBA at {floor}"


if __name__ == "__main__":
    sys.exit(main())
