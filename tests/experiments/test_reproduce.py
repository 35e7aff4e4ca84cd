"""Every experiment of the paper runs in its short form, and its claims hold there. Slow: minutes in all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
EXPERIMENTS = sorted(path.parent.name for path in (REPOSITORY / "experiments").glob("*/reproduce.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_short_run_ends_with_its_claims(name, tmp_path):
    script = REPOSITORY / "experiments" / name / "reproduce.py"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".cache" / "jax")}
    command = [sys.executable, str(script), "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / "results.csv").read_text().splitlines()) > 1
    assert all(picture.stat().st_size > 2000 for picture in tmp_path.glob("*.png"))
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_complete_and_has_its_line_in_the_ledger(name):
    folder = REPOSITORY / "experiments" / name
    assert {"README.md", "figure.py", "results.csv"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("*.png"))
    assert (REPOSITORY / "configs" / "experiment" / "paper" / f"{name}.yaml").is_file()
    assert f"{name}/README.md" in (REPOSITORY / "experiments" / "README.md").read_text()
