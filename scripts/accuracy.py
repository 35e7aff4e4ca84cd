"""How good is the error estimate of a hypergradient? Prints the table of docs/accuracy.md.

    python scripts/accuracy.py              the whole table, some minutes
    python scripts/accuracy.py --seeds 2    a quick look

Inner problems of 30 unknowns with a penalty for each, on 60 samples: squares, logistic and log-cosh losses, well- and
ill-conditioned designs, strong and weak penalties, and a lasso. The hypergradient is taken at iterates along the path
of gradient descent and of L-BFGS (proximal gradient for the lasso), with adjoint tolerances from 1e-1 to 1e-10, and
compared with that at the solution.
"""

from __future__ import annotations

import argparse
import functools
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl
from bilevel.engines import Carry, Point
from bilevel.engines.implicit_function.accuracy import SAFETY

SAMPLES, FEATURES = 60, 30
TOLERANCES = (1e-1, 1e-2, 1e-4, 1e-10)
AT_STEPS = {"descent": (1, 3, 10, 30, 100, 300, 999), "lbfgs": (1, 2, 3, 5, 8, 12, 18, 25, 40)}
LOSSES: dict[str, Callable] = {
    "quadratic": lambda z, y: 0.5 * (z - y) ** 2,
    "logistic": lambda z, y: jnp.logaddexp(0.0, -jnp.sign(y) * z),
    "log-cosh": lambda z, y: jnp.logaddexp(z - y, y - z),
    "lasso": lambda z, y: 0.5 * (z - y) ** 2,
}
PENALTIES = {"quadratic": (-4.0, -7.0), "logistic": (-2.0, -4.0, -7.0), "log-cosh": (-4.0, -7.0), "lasso": (-3.0, -2.0)}
DECAYS = (0.5, 2.0)  # the columns of the design shrink by 10 to this power: condition numbers of about 10 and 10^4


class Row(NamedTuple):
    """One comparison."""

    error: float
    estimate: float
    claimed: bool
    theta: float
    size: float


def draw(seed: int, decay: float) -> tuple[tuple, tuple]:
    """Training and validation data."""
    keys = jax.random.split(jax.random.key(seed), 5)
    scales = 10.0 ** (-decay * jnp.arange(FEATURES) / (FEATURES - 1))
    x, xv = (jax.random.normal(key, (SAMPLES, FEATURES)) * scales for key in keys[:2])
    truth = jax.random.normal(keys[2], (FEATURES,)) / jnp.sqrt(scales)
    y, yv = (x @ truth, xv @ truth)
    noise = [0.5 * jax.random.normal(key, (SAMPLES,)) for key in keys[3:]]
    return (x, y + noise[0]), (xv, yv + noise[1])


def levels_of(kind: str, solver: Any) -> Any:
    """Both levels of a problem."""

    def error(params, hparams, batch):
        return jnp.mean(LOSSES[kind](batch[0] @ params, batch[1]))

    def penalised(params, hparams, batch):
        return error(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)

    def init(key, hparams):
        return jnp.zeros(FEATURES, hparams.dtype)

    if kind == "lasso":
        inner = bl.InnerProblem(loss=error, init=init, penalty=bl.L1(weight=jnp.exp), solver=solver)
    else:
        inner = bl.InnerProblem(loss=penalised, init=init, solver=solver)
    return bl.Task(
        inner=inner, outer_loss=error, init_hparams=lambda key: jnp.zeros(FEATURES), batches=bl.full_batch(None, None)
    )


@functools.cache
def exact(kind: str) -> Callable:
    """(hparams, train, validation) -> the hypergradient at the solution."""
    solver = bl.ProximalGradient(tol=1e-14, max_steps=100_000) if kind == "lasso" else bl.Newton(tol=1e-14)
    levels = levels_of(kind, solver)
    engine = bl.Implicit(linear_solve=bl.Dense(), accuracy="residual")

    def compute(hparams, train, validation):
        point = Point(hparams, train, validation, jax.random.key(0))
        return engine.hypergradient(levels, point, engine.first_carry(levels, point))[1]

    return jax.jit(compute)


@functools.cache
def path(kind: str, solver: Any, steps: tuple[int, ...]) -> Callable:
    """(hparams, train) -> the iterates of a solver after the given numbers of steps, stacked."""
    levels = levels_of(kind, solver)

    def compute(hparams, train):
        instance = levels.inner.at(hparams, train)

        def advance(state, _):
            after = solver.step(instance, state)
            after = after._replace(counts=after.counts.as_arrays(), code=jnp.asarray(after.code, jnp.int32))
            return after, after.params

        first = solver.init(instance, levels.inner.init(jax.random.key(0), hparams))
        first = first._replace(counts=first.counts.as_arrays(), code=jnp.asarray(first.code, jnp.int32))
        return jax.lax.scan(advance, first, length=max(steps))[1][jnp.array(steps) - 1]

    return jax.jit(compute)


@functools.cache
def approximate(kind: str, refine: bool) -> Callable:
    """(hparams, train, validation, iterate, adjoint tolerance) -> gradient and report there."""
    levels = levels_of(kind, bl.ProximalGradient(max_steps=0) if kind == "lasso" else bl.GradientDescent(max_steps=0))

    def compute(hparams, train, validation, iterate, tol):
        engine = bl.Implicit(linear_solve=bl.CG(tol=tol), refine=refine, warm_start=False)
        point = Point(hparams, train, validation, jax.random.key(0))
        carry = Carry(iterate, jnp.zeros_like(iterate))
        _, grad, report = engine.hypergradient(levels, point, carry)
        return grad, report.error_estimate, report.grade, report.theta

    return jax.jit(compute)


def problems(kind: str, seeds: int) -> Iterator[tuple]:
    """(hparams, train, validation) of a family."""
    for seed in range(seeds):
        for decay in DECAYS:
            for penalty in PENALTIES[kind]:
                train, validation = draw(seed, decay)
                yield penalty + 0.3 * jax.random.normal(jax.random.key(100 + seed), (FEATURES,)), train, validation


def solvers_of(kind: str) -> dict[str, Any]:
    if kind == "lasso":
        return {"descent": bl.ProximalGradient()}
    return {"descent": bl.GradientDescent(), "lbfgs": bl.LBFGS()}


def compare(kind: str, seeds: int, refine: bool) -> list[Row]:
    """All comparisons of a family; errors at the level of rounding are left out."""
    rows = []
    for hparams, train, validation in problems(kind, seeds):
        truth = exact(kind)(hparams, train, validation)
        size = float(jnp.linalg.norm(truth))
        for name, solver in solvers_of(kind).items():
            for iterate in path(kind, solver, AT_STEPS[name])(hparams, train):
                for tol in (1e-10,) if refine else TOLERANCES:
                    found = approximate(kind, refine)(hparams, train, validation, iterate, jnp.float64(tol))
                    grad, estimate, grade, theta = found
                    error = float(jnp.linalg.norm(grad - truth))
                    if error > 1e-9 * size:
                        rows.append(Row(error, float(estimate), int(grade) == 1, float(theta), size))
    return rows


def single_precision(kind: str, seeds: int) -> list[Row]:
    """Solves that stall at the floor of float32, against the solution of the same data in float64."""
    rows = []
    for hparams, train, validation in problems(kind, seeds):
        rounded = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (hparams, train, validation))
        truth = exact(kind)(*jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), rounded))
        with jax.enable_x64(False):
            levels = levels_of(kind, bl.LBFGS(tol=1e-7, max_steps=3000))
            engine = bl.Implicit(linear_solve=bl.CG(tol=1e-7))
            hparams, inner_batch, outer_batch = jax.tree.map(jnp.asarray, rounded)
            point = Point(hparams, inner_batch, outer_batch, jax.random.key(0))
            _, grad, report = stalled(kind, engine, levels)(point)
        error = float(np.linalg.norm(np.asarray(grad, float) - np.asarray(truth)))
        size = float(jnp.linalg.norm(truth))
        rows.append(Row(error, float(report.error_estimate), int(report.grade) == 1, float(report.theta), size))
    return rows


@functools.cache
def stalled_program(kind: str) -> dict:
    return {}


def stalled(kind: str, engine: Any, levels: Any) -> Callable:
    """The program of one family in float32, compiled once."""
    kept = stalled_program(kind)
    if "program" not in kept:
        kept["program"] = jax.jit(lambda point: engine.hypergradient(levels, point, engine.first_carry(levels, point)))
    return kept["program"]


def line(label: str, rows: list[Row]) -> str:
    """One line of the table."""
    claimed = [row for row in rows if row.claimed]
    ratios = np.array([row.estimate / SAFETY / row.error for row in claimed])
    others = np.array([row.estimate / SAFETY / row.error for row in rows if not row.claimed])
    under = int(np.sum(ratios * SAFETY < 1)) if len(claimed) else 0
    spread = " to ".join(f"{value:.2f}" for value in np.percentile(ratios, (5, 95))) if len(claimed) else "-"
    median = f"{np.median(ratios):.3f}" if len(claimed) else "-"
    outside = f"{np.median(others):.2f}" if len(others) else "-"
    return f"| {label} | {len(rows)} | {len(claimed)} | {median} | {spread} | {under} | {outside} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, {platform.machine()}, {jax.devices()[0].device_kind}, {seeds} seeds\n")
    print("| problem | comparisons | claimed | median ratio | 5 to 95 % | under | median ratio where not claimed |")
    print("|---|---|---|---|---|---|---|")
    groups: dict[str, list[Row]] = defaultdict(list)
    for kind in LOSSES:
        groups[kind] = compare(kind, seeds, refine=False)
        print(line(kind, groups[kind]), flush=True)
    for kind in ("logistic", "log-cosh"):
        print(line(f"{kind}, refined", compare(kind, seeds, refine=True)), flush=True)
    for kind in ("quadratic", "logistic"):
        print(line(f"{kind}, float32 to its floor", single_precision(kind, seeds)), flush=True)


if __name__ == "__main__":
    main()
