"""The precision of Jacobians at inexact solutions: figure 3 of the paper, and more.

    python experiments/precision/reproduce.py [--smoke] [--out DIR]

Writes results.csv (errors at each iterate) and precision.png, prints a table, and asserts the claims.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from figure import draw

import bilevel as bl

sys.path.append(str(Path(__file__).resolve().parent.parent))
from common import folder, parser, write

HERE = Path(__file__).resolve().parent
COLUMNS = ("problem", "penalty", "iteration", "iterate", "implicit", "refined", "unrolled", "bound")
FULL = (("ridge", 1.0, 300), ("ridge", 0.1, 1500), ("ridge", 0.01, 7000), ("logistic", 1.0, 100), ("l1", 1.0, 300))
SMOKE = (("ridge", 1.0, 150), ("logistic", 1.0, 40))
RECORDED = 120  # iterates of each run that results.csv has


def rows(problem: str, penalty: float, curves) -> list[tuple]:
    """Lines of results.csv, evenly spread over the iterations until the iterate is exact up to rounding."""
    above = np.flatnonzero(np.asarray(curves.iterate) > 1e-13 * float(curves.size))
    chosen = np.unique(np.linspace(0, above[-1], RECORDED).astype(int))
    errors = [np.asarray(getattr(curves, name)) for name in COLUMNS[3:]]
    return [(problem, penalty, int(t), *(f"{error[t]:.4e}" for error in errors)) for t in chosen]


def claims(problem: str, penalty: float, curves) -> None:
    """Prints what was measured, and asserts what is claimed of it."""
    slope, refined = curves.slope(curves.implicit), curves.slope(curves.refined)
    gain, violations = curves.advantage(), curves.violations()
    exact = float(np.max(np.asarray(curves.refined / curves.scale)))
    print(
        f"{problem:>9} {penalty:>7g} {slope:>9.3f} {refined:>8.3f} {exact:>13.1e} {violations:>11d} {gain:>17.1f}",
        flush=True,
    )
    assert violations == 0, f"{problem}: the error exceeds its bound at {violations} iterates"
    assert abs(slope - 1) < 0.05, f"{problem}: the implicit error has slope {slope}"
    assert gain >= 10, f"{problem}: unrolled is only {gain} times worse than implicit below 1e-4"
    if problem == "logistic":
        assert abs(refined - 2) < 0.1, f"the refined error has slope {refined}"
    if problem == "ridge":
        assert exact < 1e-10, f"one correction should be exact, and its error is {exact}"


def main() -> None:
    settings = parser(__doc__, "two short runs").parse_args()
    out = folder(settings, HERE)
    lines = []
    print("  problem penalty  implicit  refined refined error  violations unrolled/implicit")
    with jax.enable_x64(True):
        for problem, penalty, iterations in SMOKE if settings.smoke else FULL:
            curves = bl.tasks.precision_curves(problem, penalty=penalty, iterations=iterations)
            lines += rows(problem, penalty, curves)
            claims(problem, penalty, curves)
    write(out / "results.csv", COLUMNS, lines)
    draw(out / "results.csv", out / "precision.png")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
