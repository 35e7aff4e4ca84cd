"""The figure of results.csv: error of both derivatives against the steps of the minimisation, a line for each seed.

python experiments/molecular/figure.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bilevel.training.figures import style

HERE = Path(__file__).resolve().parent
FLOOR = 1e-6  # results.csv has six digits


@style()
def draw(results: Path, picture: Path) -> None:
    """Relative deviation of the L1 norm of d positions / d diameter from that at the polished equilibrium."""
    with results.open() as stream:
        lines = list(csv.DictReader(stream))
    figure = Figure(figsize=(8.4, 3.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind, color in zip(panels, ("implicit", "unrolled"), ("C0", "C1"), strict=True):
        for seed in dict.fromkeys(line["seed"] for line in lines):
            chosen = [line for line in lines if line["seed"] == seed]
            off = [abs(float(line[kind]) / float(line["reference"]) - 1) for line in chosen]
            steps = [int(line["steps"]) for line in chosen]
            axes.semilogy(steps, np.maximum(off, FLOOR), color=color, alpha=0.45, linewidth=1)
        axes.axhline(1e-3, color="black", linestyle="--", linewidth=0.8)
        axes.set(xlabel="steps of FIRE", title=kind)
    panels[0].set_ylabel("relative error of the sensitivity (at least 1e-6 drawn)")
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    draw(HERE / "results.csv", HERE / "sensitivity.png")
