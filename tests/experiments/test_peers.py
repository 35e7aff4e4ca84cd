"""Every benchmark against peers runs in its short form without any of them, writes its table and its figure."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.peers import logistic, logistic_figure

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FOLDER = REPOSITORY / "experiments" / "peers"
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if "def main()" in path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_short_run_ends_with_a_table_and_a_figure(name, tmp_path):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".cache" / "jax")}
    command = [sys.executable, "-m", f"experiments.peers.{name}", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / f"{name}.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows and all(row["device"] for row in rows)
    assert (tmp_path / f"{name}.png").stat().st_size > 2000


def test_each_benchmark_has_its_line_in_the_ledger():
    text = (FOLDER / "README.md").read_text()
    assert all(f"experiments.peers.{name}" in text for name in BENCHMARKS)


def test_the_curves_of_the_logistic_benchmark_have_an_arm_each(tmp_path):
    """A colour and a mark of its own for each of thirteen arms; the least loss so far never rises."""
    looks = [logistic_figure.look(f"bilevel: {number}", number) for number in range(13)]
    assert len({one["color"] for one in looks}) == len({one["marker"] for one in looks}) == 13
    gaps = np.array([1.0, 0.4, 0.7, 0.1, 0.0])
    points = logistic.curve_of("made up", "hoag: quadratic", np.arange(1.0, 6.0), np.arange(10, 60, 10), gaps)
    assert [(one["seconds"], one["calls"], one["suboptimality"]) for one in points] == [
        *((1.0, 10, 1.0), (2.0, 20, 0.4), (4.0, 40, 0.1)),
    ]
    logistic_figure.draw_curves(points, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
