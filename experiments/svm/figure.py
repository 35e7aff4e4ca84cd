"""The figure of results.csv: agreement of all solvers and conditions; time and memory against the number of features.

python experiments/svm/figure.py
"""

from __future__ import annotations

import csv
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bilevel.training.figures import COLORS, style

HERE = Path(__file__).resolve().parent
NINE = (*COLORS, "#882255")  # there are nine arms
STYLES = {"implicit": "-o", "unrolled": "--s", "plain scan": ":^"}


@style()
def draw(results: Path, picture: Path) -> None:
    """Three panels; those of time and memory are left out where nothing was timed."""
    with results.open() as stream:
        lines = list(csv.DictReader(stream))
    timed = any(line["part"] == "time" for line in lines)
    figure = Figure(figsize=(14.5 if timed else 5, 4.4), layout="constrained")
    panels = np.ravel(figure.subplots(1, 3 if timed else 1, squeeze=False))
    bars = [line for line in lines if line["part"] == "agreement"]
    names = [f"{line['solver']}\n{line['mapping']}".replace("_", " ") for line in bars]
    names = ["central differences", *names[1:]] if names else names
    panels[0].barh(names, [max(float(line["value"]), 1e-12) for line in bars])
    panels[0].axvline(1e-3, color="black", linestyle="--", linewidth=0.8)
    panels[0].set(xscale="log", xlabel="relative error of the hypergradient", title="solver and condition")
    panels[0].tick_params(axis="y", labelsize=7)
    for axes, quantity in zip(panels[1:], ("cpu seconds", "bytes"), strict=False):
        chosen = [line for line in lines if line["quantity"] == quantity]
        arms = dict.fromkeys((line["solver"], line["mapping"], line["engine"]) for line in chosen)
        for arm, color in zip(arms, cycle(NINE), strict=False):
            own = [line for line in chosen if (line["solver"], line["mapping"], line["engine"]) == arm]
            label = " / ".join(arm).replace("_", " ")
            axes.loglog(
                [int(line["features"]) for line in own],
                [float(line["value"]) for line in own],
                STYLES[arm[2]],
                color=color,
                label=label,
            )
        axes.set(xlabel="features", ylabel=quantity)
    if timed:
        panels[1].set_title("processor time of a hypergradient")
        panels[2].set_title("memory beside arguments and results")
        panels[2].legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    draw(HERE / "results.csv", HERE / "svm.png")
