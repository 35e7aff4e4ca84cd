"""Sensitivity of the positions of soft spheres: implicit against unrolled, 40 seeds.

    python experiments/molecular/reproduce.py [--smoke] [--out DIR]

Writes results.csv (both derivatives along the minimisation of each seed), sensitivity.png and arrows.png, prints the
counts, and asserts the claims.
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
COLUMNS = ("seed", "steps", "force", "unrolled", "implicit", "reference")


def main() -> None:
    settings = parser(__doc__, "3 seeds of 32 spheres").parse_args()
    out = folder(settings, HERE)
    sizes = {"particles": 32, "seeds": 3, "steps": 2400} if settings.smoke else {}
    with jax.enable_x64(True):
        found = bl.tasks.molecular_sensitivities(**sizes)
    arrays = (found.paths.force, found.paths.unrolled, found.paths.implicit)
    rows = [
        (seed, steps, *(f"{float(array[time, seed]):.6g}" for array in arrays), f"{reference:.6g}")
        for seed, reference in enumerate(found.reference)
        for time, steps in enumerate(found.paths.steps)
    ]
    write(out / "results.csv", COLUMNS, rows)
    draw(out / "results.csv", out / "sensitivity.png")
    bl.tasks.sensitivity_arrows(found).savefig(out / "arrows.png", dpi=120)
    numbers = found.figures()
    for name, value in numbers.items():
        print(f"{name:>32}: {value:.3g}")
    off = {name: found.deviations(getattr(found.paths, name)) for name in ("implicit", "unrolled")}
    for time, steps in enumerate(found.paths.steps):
        counted = ", ".join(f"{name} {int(np.sum(array[time] > 1e-3))}" for name, array in off.items())
        print(f"after {steps:>4} steps off by more than 1e-3: {counted}")
    print(f"written to {out}")
    resting = numbers["seeds_at_rest"]
    assert resting >= 0.9 * numbers["seeds"], f"only {resting} seeds are at rest"
    assert numbers["seeds_implicit_stable"] >= resting, "the implicit derivative is not stable in every seed at rest"
    assert numbers["seeds_with_one_network"] >= 0.9 * numbers["seeds"], "too few seeds to compare with differences"
    assert numbers["max_error_against_differences"] <= 1e-3


if __name__ == "__main__":
    main()
