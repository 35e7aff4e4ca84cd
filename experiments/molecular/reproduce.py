"""Sensitivity of the positions of soft spheres: implicit against unrolled, 40 seeds.

    python experiments/molecular/reproduce.py [--smoke] [--out DIR]

Writes results.csv (both derivatives along the minimisation of each seed), sensitivity.png and arrows.png, prints the
counts, and asserts the claims.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import jax
import numpy as np
from figure import draw

import bilevel as bl

HERE = Path(__file__).resolve().parent
COLUMNS = ("seed", "steps", "force", "unrolled", "implicit", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="3 seeds of 32 spheres, written to a temporary folder")
    parser.add_argument("--out", type=Path, help="the folder to write to; by default this one")
    settings = parser.parse_args()
    out = settings.out or (Path(tempfile.mkdtemp()) if settings.smoke else HERE)
    out.mkdir(parents=True, exist_ok=True)
    sizes = {"particles": 32, "seeds": 3, "steps": 2400} if settings.smoke else {}
    with jax.enable_x64(True):
        found = bl.tasks.molecular_sensitivities(**sizes)
    with (out / "results.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for seed, reference in enumerate(found.reference):
            for time, steps in enumerate(found.paths.steps):
                numbers = (found.paths.force, found.paths.unrolled, found.paths.implicit)
                at = [f"{float(array[time, seed]):.6g}" for array in numbers]
                writer.writerow([seed, steps, *at, f"{reference:.6g}"])
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
