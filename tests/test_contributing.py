"""The measure of a contributor: what docs/contributing.md writes, and no other file, makes the five new things work."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = re.compile(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRITTEN = dict(FILE.findall((ROOT / "docs/contributing.md").read_text()))
COPIED = ("bilevel", "configs", "scripts", "tests", "pyproject.toml")
KEPT = ("implicit.yaml", "one_step.yaml", "differences.yaml")  # engines for command=check: each is compiled

EXPORTS = {  # folder: (name, the module it stands in)
    "penalties": ("Deadzone", "bilevel.penalties.deadzone"),
    "solvers": ("HeavyBall", "bilevel.solvers.first_order.heavy_ball"),
    "engines": ("Differences", "bilevel.engines.differences"),
    "tasks": ("period", "bilevel.tasks.period"),
}


def insert(path: Path, before: str, line: str) -> None:
    """A line into a file, before the first place where ``before`` stands."""
    text = path.read_text()
    assert before in text, f"{path} has no line {before!r}"
    path.write_text(text.replace(before, line + before, 1))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with the files of the page and the lines that export their names."""
    folder = tmp_path_factory.mktemp("contributed")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for name, text in WRITTEN.items():
        assert not (folder / name).exists(), f"{name} is there already"
        (folder / name).write_text(text)
    for home, (name, module) in EXPORTS.items():
        door = folder / "bilevel" / home / "__init__.py"
        insert(door, f"from bilevel.{home}.", f"from {module} import {name}\n")
        text = door.read_text()
        door.write_text(re.sub(r"^__all__ = \[", f'__all__ = [\n    "{name}",', text, count=1, flags=re.MULTILINE))
        if home != "tasks":
            public = folder / "bilevel/__init__.py"
            insert(public, f"    from bilevel.{home} import (\n", f"    from bilevel.{home} import {name} as {name}\n")
            text = public.read_text()
            public.write_text(text.replace(f'    "bilevel.{home}": (', f'    "bilevel.{home}": ("{name}", ', 1))
    catalogue = folder / "bilevel/data/catalogue.py"
    insert(catalogue, "from bilevel.data.planted", "from bilevel.data import pendulum\n")
    insert(catalogue, '    Source("digits"', "    pendulum.SOURCE,\n")
    return folder


def run(package: Path, *arguments: str) -> str:
    """What ``python ARGUMENTS`` prints in the copy; it has to succeed."""
    environment = {"PYTHONPATH": str(package), "PATH": "/usr/bin:/bin", "HOME": str(package), "PYTHONHASHSEED": "0"}
    done = subprocess.run([sys.executable, *arguments], cwd=package, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def laws(package: Path, *selection: str) -> None:
    run(package, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "slow or not slow", *selection)


def test_the_page_writes_the_file_the_settings_and_the_test_of_each():
    tests = [name for name in WRITTEN if name.startswith("tests/")]
    settings = [name for name in WRITTEN if name.startswith("configs/")]
    own = [name for name in WRITTEN if name.startswith("bilevel/")]
    assert (len(own), len(settings), len(tests)) == (
        5,
        3,
        5,
    )  # a penalty has its settings in its task, a data set in the catalogue


@pytest.mark.slow
def test_the_names_are_exported_and_the_settings_compose(package):
    laws(package, "tests/test_public_names.py", "tests/test_layers.py", "-k", "not every_name_has_a_type")
    laws(package, "tests/test_configs.py", "-k", "heavy_ball or differences or period")


@pytest.mark.slow
def test_each_passes_its_own_test(package):
    laws(package, *(name for name in WRITTEN if name.startswith("tests/")))


@pytest.mark.slow
def test_the_penalty_obeys_the_laws_of_the_catalogue(package):
    laws(package, "tests/test_nonsmooth_laws.py", "-k", "Deadzone or complete")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_solver_obeys_the_laws_of_solvers(package):
    laws(package, "tests/laws/test_solvers.py", "-k", "HeavyBall")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_know_all_five(package):
    told = run(package, "-m", "bilevel", "command=list", "solvers", "engines", "data", "tasks")
    for name in ("solver=heavy_ball", "engine=differences", "data=pendulum", "task=period"):
        assert name in told, f"command=list does not name {name}"
    for path in (package / "configs/engine").glob("*.yaml"):
        if path.name not in KEPT:
            path.unlink()
    arguments = ("command=check", "task=period", "solver=heavy_ball", "compilation_cache=null")
    table = run(package, "-m", "bilevel", *arguments).splitlines()
    (row,) = [line for line in table if line.startswith("differences")]
    assert row.endswith("right"), row
