"""Commands without settings: list, new, report, watch."""

import re
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest

from bilevel.cli import choices, listing
from bilevel.cli.commands import COMMANDS, asked
from bilevel.cli.fresh import new
from bilevel.cli.help import text
from bilevel.cli.listing import GROUPS, rows, show
from bilevel.cli.reports import places, report
from bilevel.cli.sentences import SettingsError

WRONG = {
    "command=list nonsense": "choose one of tasks, engines",
    "command=list enginess": r"did you mean engines\?",
    "command=new": "needs one name",
    "command=new a-b": "needs one name",
    "command=new class": "needs one name",
    "command=report": "needs a folder: bilevel command=report RUN...",
    "command=report nowhere": "nowhere: there is no such folder",
    "command=watch . port=many": "port=many: a whole number",
    "command=watch . tests": "takes one folder",
    "command=list --verbose": "command=list takes no flags",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_mistake_is_one_sentence(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(SettingsError, match=WRONG[typed]) as refusal:
        found = asked(typed.split())
        assert found is not None
        found[0](*found[1:])
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tests"]


@pytest.mark.parametrize("name", GROUPS)
def test_each_list_has_a_line_for_each_name(name, capsys):
    show([name], {})
    lines = capsys.readouterr().out.splitlines()
    assert lines == rows(GROUPS[name]) and len(lines) >= 4
    assert all(len(line) <= 110 and re.match(r"[\w./]+=\S+ +\S", line) for line in lines), lines
    assert name == "optimizers" or not any(line.endswith("...") for line in lines)  # ours fit; optax's are cut
    show([], {})
    assert re.search(rf"^{name} +{len(lines)} ", capsys.readouterr().out, re.MULTILINE)


def test_the_help_names_the_commands():
    assert all(f"command={name}" in text() for name in COMMANDS)


def test_a_folder_may_look_like_a_setting():
    found = asked(["command=report", "lr=0.1", "output='my file.html'"])
    assert found is not None
    _, words, settings = found
    assert words == ["lr=0.1"] and settings == {"output": "my file.html"}
    assert asked(["task=ridge"]) is None and asked(["command=check"]) is None
    with pytest.raises(SettingsError, match="lr=0.1: there is no such folder"):
        places(words, "report", "RUN...")


def test_a_report_on_several_runs_lies_above_them(write_runs, capsys):
    folder = write_runs("one", "two")
    report([str(folder / "one"), str(folder / "two")], {})
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert "2 runs compared" in (folder / "report.html").read_text()
    report([str(folder / "one")], {"output": str(folder / "single.html")})
    assert "compared" not in (folder / "single.html").read_text()
    with pytest.raises(SettingsError, match="make it first"):
        report([str(folder)], {"output": str(folder / "no/where.html")})


@pytest.fixture
def write_runs(tmp_path):
    def write(*names):
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "metrics.jsonl").write_text('{"step": 0, "outer/loss": 1.0, "outer/grad_norm": 1.0}\n')
            (tmp_path / name / "summary.json").write_text('{"task": "own", "status": "completed", "steps": 1}')
        return tmp_path

    return write


def test_a_new_task_overwrites_nothing_and_is_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new(["shrinkage"], {})
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"shrinkage.py", "settings/task/shrinkage.yaml", "test_shrinkage.py"}
    assert "bilevel --config-dir settings task=shrinkage" in capsys.readouterr().out
    for path in tmp_path.glob("*.py"):
        compile(path.read_text(), str(path), "exec")
        assert "{" not in re.sub(r"\{[\"\w].*?\}", "", path.read_text())
    (tmp_path / "shrinkage.py").write_text("mine")
    with pytest.raises(SettingsError, match="overwrites nothing"):
        new(["shrinkage"], {})
    assert (tmp_path / "shrinkage.py").read_text() == "mine"


@pytest.mark.slow
def test_watch_serves_until_ctrl_c(write_runs, environment):
    command = [sys.executable, "-m", "bilevel", "command=watch", "."]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=write_runs("one"), env=environment, **pipes)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", address), address
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert "own: 1 outer steps so far" in answer.read().decode()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=800)
    assert (process.returncode, told) == (0, "")


@pytest.mark.slow
def test_a_new_task_runs_and_its_test_passes(bilevel, folder, environment):
    assert bilevel("command=new", "shrinkage").returncode == 0
    done = bilevel("--config-dir", "settings", "task=shrinkage", "trainer.steps=3", "output=run")
    assert done.returncode == 0 and done.stderr.startswith("shrinkage: test loss "), done.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shrinkage.py"]
    tested = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout


def test_a_choice_without_words_is_listed_by_its_name(tmp_path, monkeypatch):
    """A file of a contributor's need not describe itself."""
    folder = tmp_path / "configs"
    shutil.copytree(choices.configs(), folder)
    (folder / "solver" / "heavy_ball.yaml").write_text("# bilevel solver=heavy_ball\n_target_: bilevel.Optax\n")
    monkeypatch.setattr(choices, "configs", lambda: folder)
    monkeypatch.setattr(listing, "configs", lambda: folder)
    assert "solver=heavy_ball" in rows("solver")
    assert any(row.startswith("solver=lbfgsb ") for row in rows("solver"))
