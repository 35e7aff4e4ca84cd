"""Work of an outer descent at fixed and at adaptive tolerances, against the condition number of the inner problem.

    python experiments/adaptive/benchmark.py [--smoke]        # about 1 minute

80 inner unknowns, 4 hyperparameters: inner 1/2 w' diag(c) w - w' diag(c) (M h), c from 1 to the condition number, by
gradient descent; outer 1/2 ||w - t||^2, by gradient steps of one size for all arms, from the same start, until the gap
of the outer loss is 5e-3 of the start's. Arms: both tolerances fixed; HOAG's schedule 0.1 * 0.9^k; driven by the
error of the gradient (at most a fifth of its norm); the same with an inner solver that is accelerated. Counted: inner
gradients, products with the inner Hessian (of the adjoint solves and of the error estimates), outer steps.
The problem is of the size of MAID's table, not the same: that one is not published in full.
"""

from __future__ import annotations

import argparse
import csv
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.training.figures import style

CONDITIONS = (2, 10, 30, 100)
UNKNOWNS, HYPERPARAMETERS = 80, 4
GAP = 5e-3
STEPS = 400
RATE = 0.5  # of the inverse curvature of the outer loss along its steepest direction
HERE = Path(__file__).parent


def adaptive(schedule: bl.Schedule, accuracy: str) -> bl.Adaptive:
    return bl.Adaptive(bl.Implicit(linear_solve=bl.CG(tol=1e-10), accuracy=accuracy), schedule)


ARMS: dict[str, tuple[bl.Engine, type[bl.Solver], float]] = {
    "fixed 1e-4": (bl.Implicit(linear_solve=bl.CG(tol=1e-4), accuracy="residual"), bl.GradientDescent, 1e-4),
    "fixed 1e-2": (bl.Implicit(linear_solve=bl.CG(tol=1e-2), accuracy="residual"), bl.GradientDescent, 1e-2),
    "HOAG": (adaptive(bl.Summable(first=0.1, rate=0.9), "residual"), bl.GradientDescent, 1e-10),
    "error-driven": (adaptive(bl.ErrorDriven(), "estimate"), bl.GradientDescent, 1e-10),
    "fixed 1e-4, accelerated": (
        bl.Implicit(linear_solve=bl.CG(tol=1e-4), accuracy="residual"),
        bl.ProximalGradient,
        1e-4,
    ),
    "error-driven, accelerated": (adaptive(bl.ErrorDriven(), "estimate"), bl.ProximalGradient, 1e-10),
}


@functools.cache
def data(condition: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(condition), 2)
    curvature = jnp.geomspace(1.0, condition, UNKNOWNS)
    towards = jax.random.normal(keys[0], (UNKNOWNS, HYPERPARAMETERS)) / jnp.sqrt(UNKNOWNS)
    towards = towards * jnp.array([1.0, 0.7, 0.5, 0.3])
    return curvature, towards, towards @ jnp.ones(HYPERPARAMETERS) + 0.1 * jax.random.normal(keys[1], (UNKNOWNS,))


def task(condition: int, solver: Callable[..., bl.Solver], tol: float) -> bl.Task:
    curvature, towards, target = data(condition)
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum(curvature * w**2) - w @ (curvature * (towards @ h)),
            init=lambda key, h: jnp.zeros(UNKNOWNS),
            solver=solver(max_steps=20_000, tol=tol),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - target) ** 2),
        init_hparams=lambda key: jnp.zeros(HYPERPARAMETERS),
        batches=bl.full_batch(None, None),
    )


def gap(condition: int, hparams: jax.Array) -> float:
    """The exact outer loss above its minimum, relative to that of the start."""
    _, towards, target = data(condition)
    loss = lambda h: 0.5 * jnp.sum((towards @ h - target) ** 2)
    least = loss(jnp.linalg.lstsq(towards, target)[0])
    return float((loss(hparams) - least) / (loss(jnp.zeros(HYPERPARAMETERS)) - least))


def descend(condition: int, arm: str) -> dict[str, float | str]:
    engine, solver, tol = ARMS[arm]
    problem, towards = task(condition, solver, tol), data(condition)[1]
    rate = RATE / float(jnp.linalg.norm(towards, 2)) ** 2
    hparams, carry, totals, reached = jnp.zeros(HYPERPARAMETERS), None, [0, 0, 0], STEPS
    for step in range(STEPS):
        if gap(condition, hparams) <= GAP:
            reached = step
            break
        _, grad, report = bl.hypergradient(problem, hparams, engine, carry=carry)
        hparams, carry = hparams - rate * grad, report.carry
        totals[0] += int(report.counts.gradients)
        totals[1] += int(report.counts.hessian_products)
        totals[2] += int(report.inner_steps)
    return {
        "condition": condition,
        "arm": arm,
        "outer steps": reached,
        "inner steps": totals[2],
        "gradients": totals[0],
        "products": totals[1],
        "work": totals[0] + 2 * totals[1],
        "gap": gap(condition, hparams),
    }


@style()
def draw(rows: list[dict], path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for arm in ARMS:
        here = [row for row in rows if row["arm"] == arm]
        axes.loglog([row["condition"] for row in here], [row["work"] for row in here], "-o", label=arm)
    axes.set(xlabel="condition of the inner problem", ylabel="gradients + 2 products to the gap")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one condition number, nothing written")
    settings = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    print(f"{'condition':>9}  {'arm':26}{'outer':>6}{'inner steps':>12}{'gradients':>10}{'products':>9}{'work':>9}")
    for condition in (10,) if settings.smoke else CONDITIONS:
        for arm in ARMS:
            row = descend(condition, arm)
            rows.append(row)
            numbers = [row[name] for name in ("outer steps", "inner steps", "gradients", "products", "work")]
            print(
                f"{condition:>9}  {arm:26}"
                + "".join(f"{n:>{w}}" for n, w in zip(numbers, (6, 12, 10, 9, 9), strict=True))
            )
    missed = [row for row in rows if row["gap"] > GAP]
    assert not missed, f"the gap was not reached: {missed}"
    if not settings.smoke:
        with (HERE / "results.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        draw(rows, HERE / "adaptive.png")


if __name__ == "__main__":
    main()
