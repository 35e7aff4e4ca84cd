"""Batches of problems stated in CVXPY, with their gradients: `bl.from_cvxpy` against cvxpylayers.

    python -m experiments.peers.convex_layers [--smoke] [--peers cvxpylayers=PYTHON]     # 3 minutes

64 problems of 20 unknowns and 40 samples, a quadratic and a cone program (`served/convex_problems.py`), float64. Timed:
the solutions and the gradient of a linear function of them in both parameters. The error is that of the derivative
along a random direction, the median over 8 of the problems, against differences of fourth order of solutions by
Clarabel at a tolerance of 1e-12. Its accuracy limits them: of the cone program to 3e-5 or so. cvxpylayers runs by each
solver that diffcp comes with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from experiments.peers import common
from experiments.peers.served.convex_problems import PROBLEMS, data

SHAPE, SMALL = (64, 40, 20), (4, 8, 3)
CHECKED, WIDTH = 8, 1e-3
FASTER = 10.0
OURS = "bl.from_cvxpy"
TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


def layer(arrays: dict[str, np.ndarray], name: str) -> Callable[[], dict[str, Any]]:
    """The solutions and gradients of all problems by `bl.from_cvxpy`."""
    A, b, towards = (jnp.asarray(arrays[key]) for key in ("A", "b", "towards"))
    stated = PROBLEMS[name](*A.shape[1:])
    solve = bl.from_cvxpy(stated.problem, stated.parameters, [stated.variable])

    def loss(A: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        (found,) = jax.vmap(solve)(A, b)
        return jnp.sum(found * towards), found

    slope = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

    def run() -> dict[str, Any]:
        (by_A, by_b), found = slope(A, b)
        return {"x": found, "A": by_A, "b": by_b}

    return run


def directions(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A random direction of the parameters of each problem."""
    rng = np.random.default_rng(1)
    return {key: rng.standard_normal(arrays[key].shape) for key in "Ab"}


def differences(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The derivative of <towards, x> along `directions`, of the first few problems, by Clarabel."""
    stated, along = PROBLEMS[name](*arrays["A"].shape[1:]), directions(arrays)

    def value(lane: int, reach: float) -> float:
        for parameter in stated.parameters:
            key = parameter.name()
            parameter.value = arrays[key][lane] + reach * WIDTH * along[key][lane]
        stated.problem.solve(solver=cvxpy.CLARABEL, **TIGHT)
        return float(stated.variable.value @ arrays["towards"][lane])

    lanes = range(min(CHECKED, len(arrays["A"])))
    central = lambda lane, reach: (value(lane, reach) - value(lane, -reach)) / (2 * WIDTH * reach)
    return np.array([(4 * central(lane, 1.0) - central(lane, 2.0)) / 3 for lane in lanes])


def rows_of(found: dict[str, common.Timed], exact: dict[str, np.ndarray], along: dict) -> list[dict[str, Any]]:
    """A row for each arm, the problem first."""

    def error(timed: common.Timed, truth: np.ndarray) -> float:
        if "A" not in timed.result:
            return float("nan")
        lanes = range(len(truth))
        slopes = [sum(np.vdot(timed.result[key][lane], along[key][lane]) for key in "Ab") for lane in lanes]
        return float(np.median(np.abs(np.array(slopes) - truth) / np.abs(truth)))

    rows = []
    for name, truth in exact.items():
        chosen = [timed for timed in found.values() if name in timed.name]
        for timed in chosen:
            rows.append(
                {
                    "problem": name,
                    "arm": timed.name.replace(f"{name}; ", "").replace(f": {name}", ""),
                    "seconds": timed.median,
                    "times_ours": timed.median / chosen[0].median,
                    "compile_seconds": timed.compile_seconds,
                    "error": error(timed, truth),
                }
            )
    return rows


def measured(settings: Any, results: Path, picture: Path) -> list[dict[str, Any]]:
    """The rows, which are written and drawn after each round."""
    arrays = data(*(SMALL if settings.smoke else SHAPE))
    exact, along = {name: differences(arrays, name) for name in PROBLEMS}, directions(arrays)

    def keep(found: dict[str, common.Timed]) -> None:
        rows = rows_of(found, exact, along)
        common.write(results, rows)
        draw(rows, picture)

    ours = [common.own(f"{OURS}: {name}", layer(arrays, name)) for name in PROBLEMS]
    with common.served("convex_layers", settings.peers, arrays) as theirs:
        found = common.in_turn([*ours, *theirs], 2 if settings.smoke else 11, patience=10.0, after=keep)
    return rows_of(found, exact, along)


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """Error against time, a panel for each problem: to the left and down is better."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    panels = figure.subplots(1, len(PROBLEMS), sharey=True)
    for axes, name in zip(panels, PROBLEMS, strict=True):
        for row in (row for row in rows if row["problem"] == name):
            axes.loglog(row["seconds"], max(row["error"], 1e-10), "o", label=row["arm"])
        axes.set(title=name, xlabel="seconds, 64 solutions and the gradient")
        common.plain_ticks(axes.xaxis)
    panels[0].set_ylabel("relative error of the derivative")
    panels[0].legend(frameon=False, fontsize="small")
    figure.savefig(picture, dpi=120)


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for name in PROBLEMS:
        peers = [row["times_ours"] for row in rows if row["problem"] == name and row["arm"] != OURS]
        if peers:
            said = f"{name}: {FASTER:g} times as fast as cvxpylayers: {min(peers):.3g} times"
            lines.append(common.verdict(said, min(peers) >= FASTER))
    return lines


def main() -> None:
    settings = common.arguments(__doc__, "cvxpylayers")
    jax.config.update("jax_enable_x64", True)
    results, picture = common.paths("convex_layers", settings.out)
    rows = measured(settings, results, picture)
    common.show(rows)
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
