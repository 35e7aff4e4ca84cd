"""Every benchmark against peers runs in its short form without any of them, writes its table and its figure."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
