"""Draws the stored figures again in the present style, from the rows that their benchmarks keep; nothing is measured.

    python -m experiments.redraw

Left as they are: figures that need arrays which are not stored (learned images, arrows) or curves (search).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common import read

HERE = Path(__file__).resolve().parent
FROM_FILE = {  # the module, whose draw(results, picture) reads results.csv: its picture
    "precision": "precision.png",
    "svm": "svm.png",
    "molecular": "sensitivity.png",
    "dictionary": "auc.png",
    "distillation": "curves.png",
}
PEERS = ("lasso", "qp", "qp_small", "scaling", "svm")  # draw(rows, picture) of rows with numbers


def number(text: str) -> Any:
    """The text as a number, where it is one.

    >>> number("3"), number("0.5"), number("inf"), number("1 x 2")
    (3, 0.5, inf, '1 x 2')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [{name: number(text) for name, text in row.items()} for row in read(path)]


def draw_of(module: str) -> Callable[..., Any]:
    return importlib.import_module(f"experiments.{module}").draw


def main() -> None:
    for name, picture in FROM_FILE.items():
        draw_of(f"{name}.figure")(HERE / name / "results.csv", HERE / name / picture)
    draw_of("stochastic.figure")(HERE / "stochastic/results.csv", HERE / "stochastic")
    draw_of("reuse.benchmark")(HERE / "reuse")
    draw_of("adaptive.benchmark")(rows_in(HERE / "adaptive/results.csv"), HERE / "adaptive/adaptive.png")
    for name in PEERS:
        rows = rows_in(HERE / f"peers/results/{name}.csv")
        draw_of(f"peers.{name}")(rows, HERE / f"peers/figures/{name}.png")
    draw_of("peers.logistic_figure")(HERE / "peers/results/logistic.csv", HERE / "peers/figures/logistic.png")


if __name__ == "__main__":
    main()
