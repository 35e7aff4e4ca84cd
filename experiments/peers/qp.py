"""Batches of quadratic programs with their gradients: against qpax, JAXopt's OSQP and cvxpylayers.

    python -m experiments.peers.qp [--smoke] [--peers qpax=PYTHON jaxopt=PYTHON cvxpylayers=PYTHON]     # 3 minutes

min 1/2 x'Qx + q'x subject to G x <= h, 64 of them with 50 unknowns and 50 inequalities, of which about half are active,
float64. Timed: the solutions and the gradient of a linear function of them with respect to all of Q, q, G and h, by
`jax.vmap` of `bl.quadratic_program`. The error is that of the gradients in q and h, relative, against the
equality-constrained program on the active rows of our solution, solved by NumPy, which is checked to be optimal
and against central differences. Every peer runs at several of its tolerances; the table has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import bilevel as bl
from bilevel.training.figures import style
from experiments.peers import common

PEERS = ("qpax", "jaxopt", "cvxpylayers")
SHAPE = (64, 50, 50)
BETTER = "kappa 1e-08"  # the setting of qpax that the target is about
ERROR = 1e-6


def data(batch: int, unknowns: int, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Strictly convex programs whose rows bind at about half of the constraints."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((batch, unknowns, unknowns)) / np.sqrt(unknowns)
    G = rng.standard_normal((batch, rows, unknowns)) / np.sqrt(unknowns)
    return {
        "Q": roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(unknowns),
        "q": rng.standard_normal((batch, unknowns)),
        "G": G,
        "h": np.abs(rng.standard_normal((batch, rows))) * 0.3,
        "towards": rng.standard_normal((batch, unknowns)),
    }


@jax.jit
def slope(Q: jax.Array, q: jax.Array, G: jax.Array, h: jax.Array, towards: jax.Array) -> tuple:
    def loss(Q: jax.Array, q: jax.Array, G: jax.Array, h: jax.Array) -> tuple:
        solution = jax.vmap(lambda Q, q, G, h: bl.quadratic_program(Q, q, G=G, h=h))(Q, q, G, h)
        return jnp.sum(solution.params * towards), solution

    return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(Q, q, G, h)


def layer(arrays: dict[str, np.ndarray]) -> Callable[[], dict[str, Any]]:
    on_device = [jnp.asarray(arrays[name]) for name in ("Q", "q", "G", "h", "towards")]

    def run() -> dict[str, Any]:
        gradients, solution = slope(*on_device)
        extra = {"x": solution.params, "steps": solution.steps, "dual": solution.dual.inequality_dual}
        return extra | dict(zip("QqGh", gradients, strict=True))

    return run


def reference(arrays: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradients in q and h by the KKT system of the active rows, which strict complementarity makes exact."""
    Q, q, G, h, towards = (arrays[name] for name in ("Q", "q", "G", "h", "towards"))
    gradients = {"q": np.zeros_like(q), "h": np.zeros_like(h)}
    for lane in range(len(q)):
        active = found["dual"][lane] > 1e-7
        rows = G[lane][active]
        zero = np.zeros((len(rows), len(rows)))
        matrix = np.block([[Q[lane], rows.T], [rows, zero]])
        solution = np.linalg.solve(matrix, np.concatenate([-q[lane], h[lane][active]]))
        x, duals = solution[: len(q[lane])], solution[len(q[lane]) :]
        assert np.all(duals > 0) and np.all(G[lane] @ x <= h[lane] + 1e-9), "the active set is not the optimal one"
        adjoint = np.linalg.solve(matrix, np.concatenate([towards[lane], np.zeros(len(rows))]))
        gradients["q"][lane] = -adjoint[: len(q[lane])]
        gradients["h"][lane][active] = adjoint[len(q[lane]) :]
    return gradients


def differences(arrays: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """How far central differences of the solutions along a random direction of q and h are from ``exact``."""
    rng = np.random.default_rng(1)
    along = {name: rng.standard_normal(arrays[name].shape) for name in "qh"}
    reach = 1e-6
    ends = [layer(arrays | {name: arrays[name] + sign * reach * along[name] for name in "qh"})() for sign in (1, -1)]
    slope = [np.sum(np.asarray(end["x"]) * arrays["towards"], axis=1) for end in ends]
    found = (slope[0] - slope[1]) / (2 * reach)
    expected = sum(np.sum(exact[name] * along[name], axis=1) for name in "qh")
    return float(np.median(np.abs(found - expected)) / np.median(np.abs(expected)))


def measured(settings: Any, results: Path, picture: Path) -> list[dict[str, Any]]:
    """The rows, which are written and drawn after each round."""
    arrays = data(*((4, 6, 6) if settings.smoke else SHAPE))
    own = common.own("bilevel: quadratic_program", layer(arrays))
    first = own.call(1)["values"]
    exact = reference(arrays, first)
    print(f"central differences agree with the reference to {differences(arrays, exact):.1e}")
    steps = first["steps"]
    print(f"factorisations of the lanes: {np.min(steps)} to {np.max(steps)}, {np.mean(steps):.1f} on average")
    truth = np.concatenate([exact["q"], exact["h"]], axis=1)

    def keep(found: dict[str, common.Timed]) -> None:
        rows = rows_of(found, truth, first["x"])
        common.write(results, rows)
        draw(rows, picture)

    with common.served("qp", settings.peers, arrays) as theirs:
        found = common.in_turn([own, *theirs], 2 if settings.smoke else 11, patience=3.0, after=keep)
    return rows_of(found, truth, first["x"])


def rows_of(found: dict[str, common.Timed], truth: np.ndarray, solutions: np.ndarray) -> list[dict[str, Any]]:
    def error(result: dict[str, np.ndarray]) -> float:
        if "q" not in result:
            return float("nan")
        return common.relative_error(np.concatenate([result["q"], result["h"]], axis=1), truth)

    return [
        {
            "arm": timed.name,
            "seconds": timed.median,
            "cpu_seconds": timed.cpu_median,
            "compile_seconds": timed.compile_seconds,
            "error": error(timed.result),
            "solution_error": common.relative_error(timed.result.get("x", np.nan), solutions),
        }
        for timed in found.values()
    ]


@style()
def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """Error against time: to the left and down is better."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for peer in dict.fromkeys(row["arm"].split(":")[0] for row in rows):
        chosen = [row for row in rows if row["arm"].startswith(peer) and np.isfinite(row["error"])]
        axes.loglog([row["seconds"] for row in chosen], [row["error"] for row in chosen], "o", label=peer)
    axes.axhline(ERROR, color="black", linestyle="--", linewidth=0.8)
    common.plain_ticks(axes.xaxis)
    axes.set(xlabel="seconds, 64 solutions and the gradient", ylabel="relative error of the gradient")
    axes.legend()
    figure.savefig(picture, dpi=120)


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    own = rows[0]
    better = [row["seconds"] for row in rows if row["arm"].startswith("qpax") and BETTER in row["arm"]]
    lines = [common.verdict(f"gradient error below {ERROR:g}: {own['error']:.1e}", own["error"] <= ERROR)]
    if better:
        ratio = min(better) / own["seconds"]
        lines.append(common.verdict(f"1.5 times as fast as qpax with {BETTER}: {ratio:.3g} times", ratio >= 1.5))
    return lines


def main() -> None:
    settings = common.arguments(__doc__, *PEERS)
    jax.config.update("jax_enable_x64", True)
    results, picture = common.paths("qp", settings.out)
    rows = measured(settings, results, picture)
    common.show(rows)
    print(*verdict(rows), sep="\n")


if __name__ == "__main__":
    main()
