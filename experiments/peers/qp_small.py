"""Batches of quadratic programs from one with 2 unknowns to 64 with 50, with their gradients, against qpax.

    python -m experiments.peers.qp_small [--smoke]     # 4 minutes, in an environment that has qpax

The programs of `experiments.peers.qp`, solutions and the gradient in Q, q, G and h, float64. Both packages run in this
process, in turn, after compilation: a call of the smallest batch takes less than a message to another process. qpax
runs at its default and at the settings that come nearest to an error below 1e-8. Reported is the median over rounds,
and of the ratio to ours in the same round. Without qpax only ours run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from bilevel.training.figures import style
from experiments.common import parser
from experiments.peers import common
from experiments.peers.qp import data, reference, slope

SHAPES = ((1, 2, 2), (4, 6, 6), (16, 10, 10), (64, 50, 50))
SETTINGS = (("e", 1e-5, 1e-3), ("e", 1e-5, 1e-8), ("e", 1e-8, 1e-8), ("i", 1e-12, 1e-12))  # backend, tolerance, kappa
ERROR = 1e-8
OURS = "bilevel: quadratic_program"
SPAN = 0.005  # seconds of calls in a round, at least one call
Slope = Callable[..., Any]


def slope_of_qpax(backend: str, tol: float, kappa: float) -> Slope:
    qpax = importlib.import_module("qpax")

    def solved(Q: Any, q: Any, G: Any, h: Any) -> Any:
        none = jnp.zeros((0, q.size)), jnp.zeros(0)
        return qpax.solve_qp_primal(Q, q, *none, G, h, backend=backend, solver_tol=tol, target_kappa=kappa)

    def loss(Q: Any, q: Any, G: Any, h: Any, towards: Any) -> Any:
        params = jax.vmap(solved)(Q, q, G, h)
        return jnp.sum(params * towards), params

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))


def arms() -> dict[str, Slope]:
    found: dict[str, Slope] = {OURS: slope}
    if importlib.util.find_spec("qpax") is None:
        print("qpax is not installed in this environment (pip install qpax): only ours run.")
        return found
    for backend, tol, kappa in SETTINGS:
        kind = "explicit" if backend == "e" else "implicit"
        found[f"qpax: {kind}, tol {tol:.0e}, kappa {kappa:.0e}"] = slope_of_qpax(backend, tol, kappa)
    return found


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        found = call()
    jax.block_until_ready(found)
    return (time.perf_counter() - began) / calls


def rows_of(shape: tuple[int, int, int], rounds: int) -> list[dict[str, Any]]:
    """The rows of one shape: every arm in each round, in turn."""
    arrays = data(*shape)
    given = [jnp.asarray(arrays[name]) for name in ("Q", "q", "G", "h", "towards")]
    calls = {name: partial(arm, *given) for name, arm in arms().items()}
    first = {name: jax.block_until_ready(call()) for name, call in calls.items()}
    exact = reference(arrays, {"dual": np.asarray(first[OURS][1].dual.inequality_dual)})
    truth = np.concatenate([exact["q"], exact["h"]], axis=1)
    repeats = {name: max(1, int(SPAN / seconds_of(call, 1))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds_of(call, repeats[name]))
    rows = []
    for name, (gradients, _) in first.items():
        ratios = [theirs / ours for theirs, ours in zip(times[name], times[OURS], strict=True)]
        rows.append(
            {
                "shape": f"{shape[0]} x {shape[1]}",
                "arm": name,
                "seconds": statistics.median(times[name]),
                "times_ours": statistics.median(ratios),
                "error": common.relative_error(np.concatenate([gradients[1], gradients[3]], axis=1), truth),
            }
        )
    return rows


@style()
def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for arm in dict.fromkeys(row["arm"] for row in rows):
        chosen = [row for row in rows if row["arm"] == arm]
        axes.plot([row["shape"] for row in chosen], [row["seconds"] for row in chosen], "o-", label=arm)
    axes.set(yscale="log", xlabel="programs x unknowns", ylabel="seconds, solutions and the gradient")
    axes.legend()
    figure.savefig(picture, dpi=120)


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        peers = [row for row in rows if row["shape"] == shape and row["arm"] != OURS]
        if not peers:
            continue
        fastest = min(row["times_ours"] for row in peers)
        accurate = min((row["times_ours"] for row in peers if row["error"] <= ERROR), default=float("nan"))
        said = f"{shape}: at most qpax's time, which is {fastest:.2g} times ours, and {accurate:.2g} below {ERROR:g}"
        lines.append(common.verdict(said, fastest >= 1))
    return lines


def settings() -> argparse.Namespace:
    found = parser(__doc__, "the smallest shape, a few rounds").parse_args()
    if found.smoke and found.out is None:
        found.out = Path(tempfile.mkdtemp())
    return found


def main() -> None:
    asked = settings()
    jax.config.update("jax_enable_x64", True)
    results, picture = common.paths("qp_small", asked.out)
    rows: list[dict[str, Any]] = []
    for shape in SHAPES[:1] if asked.smoke else SHAPES:
        rows += rows_of(shape, 3 if asked.smoke else 21)
        common.write(results, rows)
        draw(rows, picture)
    common.show(rows)
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
