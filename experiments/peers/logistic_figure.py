"""The figure of the benchmark: how each arm came near the optimum, as curves where a run has kept them
(results/logistic_curves.csv), else when it did (results/logistic.csv).

python -m experiments.peers.logistic_figure   # from the rows that are there, no arm runs: seconds
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bilevel.training.figures import COLORS, style
from experiments.common import read

FOLDER = Path(__file__).resolve().parent
ACROSS = {"seconds": "seconds", "calls": "gradients and Hessian products"}
# A colour for each arm, told apart by the colour-blind down to eight; beyond, and beside them, by dashes and marks.
MORE = ("#882255", "#999933", "#44aa99", "#aa4499", "#661100", "#6699cc")
DASHES: Any = {"bilevel": "-", "hoag": ":", "jaxopt": "--", "torchopt": "-."}
SIGNS = "osD^vP*XhdHp<>"
MARKS = {"within 1e-5": "|", "within 1e-6": "o", "ended above 1e-6, at the number beside it": "x"}


def curves_beside(results: Path) -> Path:
    """The file of the curves of a run whose rows are in ``results``."""
    return results.with_name(f"{results.stem}_curves.csv")


def draw(results: Path, picture: Path) -> None:
    """The curves where there are some, else the times."""
    kept = curves_beside(results)
    if kept.is_file():
        draw_curves(read(kept), picture)
    else:
        draw_times(read(results), picture)


def draw_curves(points: Sequence[Mapping[str, str]], picture: Path) -> None:
    """The least suboptimality so far of each arm, by seconds and by calls of the problem: a column for each data set.

    Each arm has a colour and a mark of its own, and each package its dashes.
    """
    arms, names = ([*dict.fromkeys(point[key] for point in points)] for key in ("arm", "data"))
    with style():
        figure = Figure(figsize=(2.6 + 3.6 * len(names), 6.6), layout="constrained")
        panels = figure.subplots(2, len(names), squeeze=False, sharey="col")
        for (axis, label), row in zip(ACROSS.items(), panels, strict=True):
            for axes, name in zip(row, names, strict=True):
                for number, arm in enumerate(arms):
                    own = [point for point in points if (point["data"], point["arm"]) == (name, arm)]
                    own = [point for point in own if float(point[axis]) >= 0]  # below: not counted
                    x, y = ([float(point[key]) for point in own] for key in (axis, "suboptimality"))
                    axes.plot(x, y, **look(arm, number), markevery=[-1] if x else [])
                axes.axhline(1e-6, color="0.7", linewidth=0.8)
                axes.set(xscale="log", yscale="log", xlabel=label, title=name)
        for axes in panels[:, 0]:
            axes.set_ylabel("validation loss above the optimum")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(picture, dpi=120)


def look(arm: str, number: int) -> dict[str, Any]:
    """Colour and mark of an arm, and the dashes of its package."""
    package = arm.partition(":")[0]
    colors = (*COLORS, *MORE)
    return {
        **{"color": colors[number % len(colors)], "marker": SIGNS[number % len(SIGNS)], "markersize": 5},
        **{"linestyle": DASHES.get(package, "-"), "linewidth": 1.2, "label": arm},
    }


def draw_times(rows: Sequence[Mapping[str, str]], picture: Path) -> None:
    """A panel for each data set and a line for each arm, with its name beside it, since 13 colours look alike."""
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


def draw_arm(axes: Axes, row: Mapping[str, str], place: int) -> None:
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
