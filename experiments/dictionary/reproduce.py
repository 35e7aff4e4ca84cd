"""Task-driven dictionary learning against logistic regression and an unsupervised dictionary: AUC over random splits.

    [BILEVEL_DATA=DIR] python experiments/dictionary/reproduce.py [--smoke] [--out DIR]

The planted set always; ALLAML and colon where BILEVEL_DATA names a folder with them. Writes results.csv (a line a
split) and auc.png, prints a table, and asserts the claim on the planted set.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax
import numpy as np
from figure import WAYS, draw

import bilevel as bl

sys.path.append(str(Path(__file__).resolve().parent.parent))
from common import append, folder, parser, write

HERE = Path(__file__).resolve().parent
COLUMNS = ("data", "split", *WAYS, "zero", "steps")


def interval(values: list[float]) -> tuple[float, float]:
    """The mean and 1.96 standard errors, in percent."""
    return 100 * float(np.mean(values)), 196 * float(np.std(values, ddof=1)) / len(values) ** 0.5


def report(data: str, rows: list[dict]) -> tuple[float, float]:
    """Prints a line a way; returns the gain of task-driven over the unsupervised dictionary with its half width."""
    for way in WAYS:
        print(f"{data:>8} {WAYS[way]:>28}: AUC {{:5.1f}} +- {{:.1f}} %".format(*interval([row[way] for row in rows])))
    gain = interval([row["task_driven"] - row["dictionary"] for row in rows])
    zero = 100 * float(np.mean([row["zero"] for row in rows]))
    print(
        f"{data:>8} {'gain of task-driven':>28}: {gain[0]:5.1f} +- {gain[1]:.1f} points; {zero:.0f} % of codes zero",
        flush=True,
    )
    return gain


def main() -> None:
    settings = parser(__doc__, "two splits of the planted set").parse_args()
    out = folder(settings, HERE)
    real = ["allaml", "colon"] if os.environ.get("BILEVEL_DATA") and not settings.smoke else []
    sizes = {"splits": 2, "genes": 300, "steps": 20} if settings.smoke else {}
    write(out / "results.csv", COLUMNS, [])
    gains = {}
    with jax.enable_x64(True):
        for data in ("planted", *real):
            rows = []
            for row in bl.tasks.dictionary_splits(data, **sizes):
                append(out / "results.csv", (data, len(rows), *(f"{row[name]:.4f}" for name in COLUMNS[2:])))
                rows.append(row)
            gains[data] = report(data, rows)
    draw(out / "results.csv", out / "auc.png")
    print(f"written to {out}")
    mean, width = gains["planted"]
    assert mean >= 2, f"task-driven gains only {mean} points on the planted set"
    if not settings.smoke:
        assert mean > width, f"the gain of {mean} points is within its interval of {width}"


if __name__ == "__main__":
    main()
