"""The figures: held-out accuracy against the outer step, beside the author's figures; the learned images.

python experiments/distillation/figure.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bilevel.training.figures import style

HERE = Path(__file__).resolve().parent
# test accuracy on 10,000 images after training on 60,000, read from the titles of figures in the author's notebooks
AUTHOR = {
    "0.05": ([0, 10, 20, 30, 40], [68.44, 84.67, 86.02, 86.24, 86.47]),
    "0.1": ([0, 500, 1000, 1500], [68.00, 85.05, 85.30, 85.34]),
}
COLORS = {"1e-3": "C0", "0.05": "C1", "0.1": "C2"}


@style()
def draw(results: Path, picture: Path) -> None:
    """Learning curves of results.csv."""
    with results.open() as stream:
        lines = list(csv.DictReader(stream))
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    last = 0
    for epsilon, color in COLORS.items():
        chosen = [line for line in lines if line["run"] == epsilon and line["quantity"] == "test/accuracy"]
        steps = [int(line["step"]) for line in chosen]
        last = max(last, *steps)
        axes.plot(steps, [100 * float(line["value"]) for line in chosen], color=color, label=f"epsilon {epsilon}")
    for epsilon, (steps, accuracy) in AUTHOR.items():
        shown = [(step, value) for step, value in zip(steps, accuracy, strict=True) if step <= last]
        axes.plot(
            *zip(*shown, strict=True), "o", color=COLORS[epsilon], label=f"author, epsilon {epsilon} (60,000 images)"
        )
    real = [100 * float(line["value"]) for line in lines if line["run"] == "real images"]
    axes.axhline(real[0], color="black", linestyle="--", linewidth=1, label="softmax regression on all real images")
    axes.set(xlabel="outer step", ylabel="held-out accuracy, %", ylim=(60, 94))
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=130)


@style()
def draw_images(learned: dict[str, np.ndarray], picture: Path) -> None:
    """A row of learned images for each regularisation."""
    figure = Figure(figsize=(11, 1.3 * len(learned)), layout="constrained")
    panels = np.asarray(figure.subplots(len(learned), 10))
    for row, (epsilon, images) in zip(panels, learned.items(), strict=True):
        largest = float(np.quantile(np.abs(images), 0.995))
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"eps. {epsilon}", fontsize=9)
    for label, axes in enumerate(panels[0]):
        axes.set_title(str(label), fontsize=9)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(HERE / "results.csv", HERE / "curves.png")
