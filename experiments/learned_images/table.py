"""What learned images are worth: kernels, heads and what is learned, by images a class, beside published figures.

    BILEVEL_DATA=DIR python -m experiments.learned_images.table [--smoke] [--only NAME ...] [--runs DIR]

DIR holds the MNIST test file as published (8,000 images to learn from, 2,000 to test on). Each run is a command of
`bilevel`, whose folder lies in --runs; one that is there already is read, not run again. Writes results.csv and
table.png; --smoke takes one run of 20 steps on digits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bilevel.training.figures import style
from experiments import common

HERE = Path(__file__).parent
RUNS = {  # the name of a run: its settings
    "rbf1": "experiment=distillation/kip",
    "rbf10": "experiment=distillation/kip task.images_per_class=10",
    "rbf50": "experiment=distillation/kip task.images_per_class=50 trainer.steps=200",
    "ntk1": "experiment=distillation/kip task.kernel=ntk",
    "ntk10": "experiment=distillation/kip task.kernel=ntk task.images_per_class=10",
    "labels1": "experiment=distillation/kip task.learn=labels",
    "labels10": "experiment=distillation/kip task.learn=labels task.images_per_class=10",
    "labels50": "experiment=distillation/kip task.learn=labels task.images_per_class=50 trainer.steps=100",
    "softmax1": "experiment=distillation/softmax",
    "softmax10": "experiment=distillation/softmax task.images_per_class=10",
    "features1": "experiment=distillation/features task.features=trained",
    "features10": "experiment=distillation/features task.features=trained task.images_per_class=10",
}
SMOKE = {"smoke": "experiment=distillation/kip data=digits task.seeds=1 task.batch_size=0 trainer.steps=20"}
# Recalled, not looked up: a fully connected kernel and all 60,000 images. Source: Nguyen, Novak, Xiao and Lee, 2021.
PUBLISHED = {"both": {1: 0.855, 10: 0.972, 50: 0.984}, "labels": {1: 0.609, 10: 0.873, 50: 0.933}}
FIGURES = (
    *("test_accuracy", "baseline_random", "baseline_means", "baseline_all"),
    *("network_test_accuracy", "network_deviation", "baseline_random_network", "baseline_means_network"),
    "baseline_all_network",
)
COLUMNS = ("run", "images_per_class", *FIGURES, "published", "seconds", "command")


def run(name: str, settings: str, folder: Path) -> dict[str, Any]:
    """The row of one run. RuntimeError with its last words where it fails."""
    place = folder / name
    command = ("bilevel", *settings.split())
    if not (place / "summary.json").exists():
        quiet = (f"output={place}", "progress=false", "report=false")
        whole = (sys.executable, "-m", *command, *quiet)
        done = subprocess.run(
            whole, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])}, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    summary = json.loads((place / "summary.json").read_text())
    steps = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    each = int(dict(part.split("=") for part in settings.split()).get("task.images_per_class", 1))
    learned = "labels" if "task.learn=labels" in settings else "both"
    told = PUBLISHED[learned].get(each, "") if "distillation/kip" in settings and name != "smoke" else ""
    figures = {entry: round(summary[entry], 4) for entry in FIGURES}
    return {
        **{"run": name, "images_per_class": each, **figures, "published": told},
        **{"seconds": round(sum(step["seconds"] for step in steps)), "command": " ".join(command)},
    }


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """The accuracy of each run as a bar, by the learner and by networks, with marks for what it is compared with."""
    with style():
        figure = Figure(figsize=(9, 1.4 + 0.36 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        panels = (
            (left, "test_accuracy", "baseline_{}", "the learner"),
            (right, "network_test_accuracy", "baseline_{}_network", "networks trained from scratch"),
        )
        for axes, entry, others, title in panels:
            places = range(len(rows))
            bars = axes.barh(
                list(places), [float(row[entry]) for row in rows], height=0.6, color="0.8", label="learned"
            )
            axes.bar_label(bars, [f"{float(row[entry]):.3f}" for row in rows], label_type="center", fontsize=7)
            for mark, kind in (("o", "random"), ("s", "means"), ("D", "all")):
                axes.plot([float(row[others.format(kind)]) for row in rows], places, mark, markersize=4, label=kind)
            axes.set(xlim=(0.3, 1.0), xlabel="test accuracy", title=title)
        left.plot(
            [float(row["published"] or "nan") for row in rows],
            range(len(rows)),
            "k|",
            markersize=12,
            label="published, 60,000 images (recalled)",
        )
        left.set_yticks(
            range(len(rows)), [f"{row['run'].rstrip('0123456789')}, {row['images_per_class']} a class" for row in rows]
        )
        left.invert_yaxis()
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(out / "table.png", dpi=110)


def merged(rows: list[dict[str, Any]], earlier: list[dict[str, str]]) -> list[dict[str, Any]]:
    """These rows and those of earlier runs that --only left out, in the order of the runs."""
    found = {row["run"]: row for row in (*earlier, *rows)}
    return [found[name] for name in RUNS if name in found]


def main() -> None:
    parser = common.parser(__doc__, "one run of 20 steps on digits")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="NAME")
    parser.add_argument("--runs", type=Path, help="the folder of the runs; by default a temporary one")
    settings = parser.parse_args()
    out = common.folder(settings, HERE)
    runs = settings.runs or Path(tempfile.mkdtemp())
    chosen = SMOKE if settings.smoke else {name: RUNS[name] for name in settings.only}
    rows = []
    for name, line in chosen.items():
        rows.append(row := run(name, line, runs))
        print(
            f"{name}: {row['test_accuracy']:.4f} in {row['seconds']} s; networks {row['network_test_accuracy']:.4f}",
            flush=True,
        )
    results = out / "results.csv"
    if not settings.smoke:
        rows = merged(rows, common.read(results) if results.exists() else [])
    common.write(results, COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
    draw(rows, out)


if __name__ == "__main__":
    main()
