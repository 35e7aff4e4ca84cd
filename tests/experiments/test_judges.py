"""The public collections: each program runs in its short form where its data or package is, or says in a sentence what
is missing; and what judges our answers is right on an answer by hand."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "judges"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if "def main()" in path.read_text())


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(FOLDER / f"{program}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture
def solvers(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import cutest_solvers

    return cutest_solvers


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_short_form_ends_with_a_table(program, data_root, tmp_path):
    if program.startswith("cutest") and importlib.util.find_spec("sif2jax") is None:
        pytest.skip("needs sif2jax")
    done = run(program, "--smoke", "--out", str(tmp_path), BILEVEL_DATA=str(data_root))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong" in done.stdout and len(list(tmp_path.glob("*.csv"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", [name for name in PROGRAMS if not name.startswith("cutest")])
def test_absent_data_is_a_sentence(program, tmp_path):
    done = run(program, BILEVEL_DATA=str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.strip().endswith("."), done.stderr


def test_a_minimiser_a_saddle_and_a_slope_are_told_apart(solvers):
    c = np.array([1.0, 0.0])
    wide = jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf)

    def valley(y):
        return 0.5 * y[0] ** 2 + (y[1] ** 2 - 1) ** 2

    def judged(y, slope=(-1.0, 0.0), bounds=wide):
        return solvers.judged(valley, bounds, np.array(y), c, "converged", slope)

    assert judged([0.0, 1.0]) == ("", "")
    assert judged([0.0, 0.0])[0].startswith("curvature")
    assert judged([0.5, 1.0])[0].startswith("decrease")
    assert judged([0.0, 1.0], slope=(-2.0, 0.1)) == ("", "-2 for -1")
    assert judged([0.5, 1.0], slope=(0.0, 0.0), bounds=(jnp.array([0.5, -9.0]), jnp.full(2, 9.0))) == ("", "")


def test_a_weight_is_judged_by_the_optimality_conditions(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import genes

    fit = genes.Half(np.eye(2) * np.sqrt(2), np.array([2.0, 0.1]))
    assert genes.violation(fit, "squares", 0.5, np.array([2 / np.sqrt(2) * 1.0 - 0.5, 0.0])) < 1e-12
    assert genes.violation(fit, "squares", 0.5, np.array([0.0, 0.0])) > 1
