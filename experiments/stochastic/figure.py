"""The curves of results.csv: suboptimality and gradient norm of the value function by oracle calls and by seconds."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from bilevel.training.figures import COLORS, style
from experiments import common
from experiments.peers.common import plain_ticks

AXES = (("calls", "oracle calls"), ("seconds", "processor seconds"))
DASHES = ("-", "--", ":")  # because 17 colours cannot be told apart, and 8 with dashes can
FIGURES = (("suboptimality", "value - least value"), ("gradient_norm", "norm of the hypergradient"))


@style()
def draw(results: Path, out: Path) -> None:
    """A picture for each problem."""
    rows = common.read(results)
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    for problem in dict.fromkeys(row["problem"] for row in rows):
        figure = Figure(figsize=(11, 7), layout="constrained")
        grid = figure.subplots(2, 2, sharey="row")
        for line, (measured, label) in zip(grid, FIGURES, strict=True):
            for axes, (by, name) in zip(line, AXES, strict=True):
                for number, engine in enumerate(engines):
                    own = [row for row in rows if (row["problem"], row["engine"]) == (problem, engine)]
                    if not own:
                        continue
                    curve = [[float(row[key]) for row in own] for key in (by, measured)]
                    color, dashes = COLORS[number % len(COLORS)], DASHES[number // len(COLORS)]
                    axes.plot(*curve, color=color, linestyle=dashes, label=engine, linewidth=1.4)
                axes.set(xlabel=name, yscale="log", xscale="log")
                if axes.get_xlim()[1] < 100 * axes.get_xlim()[0]:
                    plain_ticks(axes.xaxis)
            line[0].set_ylabel(label)
        figure.suptitle(f"{problem}: the best step sizes of the grid for each engine")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right center")
        figure.savefig(out / f"{problem}.png", dpi=110)


if __name__ == "__main__":
    draw(Path(__file__).parent / "results.csv", Path(__file__).parent)
