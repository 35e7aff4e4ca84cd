"""The figure of results.csv: AUC of each way, a dot for each split, with the mean and its 95 % interval.

python experiments/dictionary/figure.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bilevel.training.figures import style

HERE = Path(__file__).resolve().parent
WAYS = {
    "l1": "L1 logistic regression",
    "l2": "L2 logistic regression",
    "dictionary": "unsupervised dictionary",
    "task_driven": "task-driven dictionary",
}


@style()
def draw(results: Path, picture: Path) -> None:
    """A panel for each data set."""
    with results.open() as stream:
        lines = list(csv.DictReader(stream))
    sets = list(dict.fromkeys(line["data"] for line in lines))
    figure = Figure(figsize=(1.2 + 3.0 * len(sets), 3.8), layout="constrained")
    for axes, data in zip(np.ravel(figure.subplots(1, len(sets), sharey=True, squeeze=False)), sets, strict=True):
        for place, way in enumerate(WAYS):
            values = np.array([float(line[way]) for line in lines if line["data"] == data])
            spread = np.linspace(-0.12, 0.12, len(values))
            axes.plot(place + spread, values, "o", color="0.7", markersize=4)
            width = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
            axes.errorbar(place, values.mean(), width, fmt="s", color="C0", capsize=4)
        axes.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
        axes.set(title=data, xticks=range(len(WAYS)))
        axes.set_xticklabels([name.replace(" ", "\n") for name in WAYS.values()], fontsize=7)
    figure.axes[0].set_ylabel("AUC on the test samples")
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    draw(HERE / "results.csv", HERE / "auc.png")
