"""The figure of results.csv: error of the Jacobian against error of the iterate.

python experiments/precision/figure.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure

from bilevel.training.figures import style

HERE = Path(__file__).resolve().parent
CURVES = {
    "unrolled": ("unrolled", "C1", "-"),
    "bound": ("bound of the theorem", "black", "--"),
    "implicit": ("implicit", "C0", "-"),
    "refined": ("implicit after one Newton step", "C2", "-"),
}


@style()
def draw(results: Path, picture: Path) -> None:
    """A panel for each run of results.csv."""
    with results.open() as stream:
        lines = list(csv.DictReader(stream))
    runs = list(dict.fromkeys((line["problem"], line["penalty"]) for line in lines))
    figure = Figure(figsize=(3.4 * len(runs), 3.6), layout="constrained")
    for axes, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        chosen = [line for line in lines if (line["problem"], line["penalty"]) == run]
        x = [float(line["iterate"]) for line in chosen]
        for name, (label, color, dashes) in CURVES.items():
            axes.loglog(x, [float(line[name]) for line in chosen], dashes, color=color, label=label, linewidth=1.5)
        axes.invert_xaxis()
        axes.set(xlabel="error of the iterate", title=f"{run[0]}, penalty {float(run[1]):g}")
    figure.axes[0].set_ylabel("error of the Jacobian (spectral norm)")
    figure.axes[0].legend(loc="lower left", bbox_to_anchor=(0.0, 0.08))
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    draw(HERE / "results.csv", HERE / "precision.png")
