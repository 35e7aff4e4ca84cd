"""The figure of results/logistic.csv: when each arm came near the optimum.

python -m experiments.peers.logistic_figure   # from the rows that are there, no arm runs: seconds
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bilevel.training.figures import style
from experiments.common import read

FOLDER = Path(__file__).resolve().parent
MARKS = {"within 1e-5": "|", "within 1e-6": "o", "ended above 1e-6, at the number beside it": "x"}


def draw(results: Path, picture: Path) -> None:
    """A panel for each data set and a line for each arm, with its name beside it, since 13 colours look alike."""
    rows = read(results)
    arms, names = ([*dict.fromkeys(row[key] for row in rows)] for key in ("arm", "data"))
    with style():
        figure = Figure(figsize=(2.4 + 3.4 * len(names), 1.4 + 0.24 * len(arms)), layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            axes.set(xscale="log", xlabel="seconds", title=name)
            axes.grid(axis="y", color="0.92")
            axes.set_axisbelow(True)
            for row in (row for row in rows if row["data"] == name):
                draw_arm(axes, row, arms.index(row["arm"]))
            axes.xaxis.set_major_formatter("{x:g}")
            low, high = axes.get_xlim()
            axes.set_xlim(low, 3.0 * high)  # because the numbers stand to the right of the marks
        panels[0].set_yticks(range(len(arms)), arms)
        panels[0].set_ylim(len(arms) - 0.5, -0.5)  # the first arm on top
        handles = [Line2D([], [], color="black", marker=mark, linestyle="none") for mark in MARKS.values()]
        figure.legend(handles, list(MARKS), loc="outside lower center", ncols=len(MARKS))
        figure.savefig(picture, dpi=120)


def draw_arm(axes: Axes, row: dict[str, str], place: int) -> None:
    """From 1e-5 to 1e-6, or to where the arm ended, with its least suboptimality beside it."""
    color = "C0" if row["arm"].startswith("bilevel") else "C1"
    near, first, last = (float(row[key]) for key in ("seconds_to_1e-5", "seconds", "seconds_in_all"))
    reached, roughly = first < float("inf"), near < float("inf")
    end = first if reached else last
    if roughly:
        axes.plot([near, end], [place, place], color=color, linewidth=1.0)
        axes.plot(near, place, "|", color=color, markersize=9, markeredgewidth=1.6)
    axes.plot(end, place, "o" if reached else "x", color=color)
    if not reached:
        number = f"{float(row['suboptimality']):.1e}".replace("e-0", "e-")
        axes.annotate(number, (end, place), (6, 0), textcoords="offset points", va="center")


if __name__ == "__main__":
    draw(FOLDER / "results/logistic.csv", FOLDER / "figures/logistic.png")
