"""The wheel holds the settings and runs from any folder. Slow: builds it, installs it, runs a task."""

import importlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import bilevel.tasks

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the sdist, as an index would have it."""
    place = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place, REPOSITORY)
    (path,) = place.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_package_settings_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (*(REPOSITORY / "configs").rglob("*.yaml"), *(REPOSITORY / "bilevel").rglob("*.py")):
        name = path.relative_to(REPOSITORY).as_posix()
        assert (name if name.startswith("bilevel/") else f"bilevel/{name}") in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "configs/", "docs/", "experiments/")) for name in names)
    assert "bilevel/py.typed" in names
    for name in bilevel.tasks._OF_PAPERS.values():
        assert f"bilevel/experiments/{name[0].replace('.', '/')}.py" in names


@pytest.mark.slow
def test_the_installed_wheel_runs_from_another_folder(wheel, tmp_path):
    """In an environment of its own, which borrows the dependencies of this one: no network is needed."""
    home = tmp_path / "venv"
    run(sys.executable, "-m", "venv", home)
    run(home / "bin/python", "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "BILEVEL_CACHE": str(REPOSITORY / ".cache" / "jax"), "PYTHONPATH": ""}
    where = run(home / "bin/python", "-c", "import bilevel; print(bilevel.__file__)", cwd=elsewhere, env=environment)
    assert where.stdout.startswith(str(packages))
    done = run(home / "bin/bilevel", "task=ridge", "trainer.steps=3", cwd=elsewhere, env=environment)
    directory = elsewhere / done.stdout.strip()
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["task"], summary["steps"]) == ("ridge", 3)
    assert (directory / "figures" / "training.png").exists()
    small = ("task.features=20", "task.train=40", "task.validation=20", "task.test=20", "trainer.steps=2")
    done = run(home / "bin/bilevel", "experiment=paper/svm", *small, cwd=elsewhere, env=environment)
    assert json.loads((elsewhere / done.stdout.strip() / "summary.json").read_text())["steps"] == 2
    names = "import bilevel as bl; print([getattr(bl.tasks, name).__module__ for name in ('svm', 'precision')])"
    found = run(home / "bin/python", "-c", names, cwd=elsewhere, env=environment)
    assert found.stdout.strip() == "['bilevel.experiments.svm.task', 'bilevel.experiments.precision.task']"


def test_one_version_everywhere(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    release = importlib.import_module("release")
    told = release.versions()
    assert set(told.values()) == {bilevel.__version__}, told


def test_a_wheel_that_lacks_something_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    release = importlib.import_module("release")
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as file:
        for name in ("bilevel/py.typed", "tests/test_x.py", "bilevel-0.dist-info/METADATA"):
            file.writestr(name, "")
    told = " ".join(release.faults_of_wheel(tmp_path / "x.whl"))
    assert told == (
        "The wheel lacks bilevel/configs/config.yaml. The wheel lacks its licence. "
        "The wheel holds tests, which is no part of the package."
    )
