"""Completion of names by the shell: in bash as a user's keys would ask for it; other shells check the script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bilevel.cli.arguments import COMMANDS, WITHOUT_SETTINGS
from bilevel.cli.choices import options
from bilevel.cli.completion import answered, candidates

REPOSITORY = Path(__file__).resolve().parents[2]
COMPLETED = r"""
PATH="$PWD:$PATH"
eval "$(bilevel --shell-completion install=bash)"
asked=$(complete -p bilevel); fill=${asked##*-F }; fill=${fill%% *}
for line in "$@"; do
  COMP_LINE="$line"; COMP_POINT=${#line}; COMPREPLY=()
  read -r -a COMP_WORDS <<< "$line"; COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
  "$fill" bilevel
  echo "$line -> ${COMPREPLY[*]}"
done
"""


@pytest.fixture
def shell(tmp_path):
    """A folder with the command ``bilevel`` of this package, and the environment to call it in."""
    command = tmp_path / "bilevel"
    command.write_text(f"#!{sys.executable}\nfrom bilevel.cli import main\n\nmain()\n")
    command.chmod(0o755)
    return tmp_path, {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_groups_names_and_settings(shell):
    folder, environment = shell
    lines = ("bilevel task=rid", "bilevel optimizer=lio", "bilevel data=ijc", "bilevel trainer.st", "bilevel command=l")
    done = subprocess.run(
        ["bash", "-c", COMPLETED, "bash", *lines], cwd=folder, env=environment, capture_output=True, text=True
    )
    told = dict(line.split(" -> ") for line in done.stdout.splitlines() if " -> " in line)
    assert "task=ridge" in told["bilevel task=rid"].split(), done.stdout + done.stderr
    assert "optimizer=lion" in told["bilevel optimizer=lio"].split()
    assert {"data=ijcnn1", "data=ijcnn1_test"} <= set(told["bilevel data=ijc"].split())
    assert any(word.startswith("trainer.steps=") for word in told["bilevel trainer.st"].split())
    assert told["bilevel command=l"] == "command=list"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_script_without_a_word(shell):
    folder, environment = shell
    script = 'PATH="$PWD:$PATH"; eval "$(bilevel --shell-completion install=zsh)"; print $_comps[bilevel]'
    done = subprocess.run(["zsh", "-f", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert "hydra_bash_completion" in done.stdout and not done.stderr, done


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(shell):
    folder, environment = shell
    script = (
        "set -x PATH $PWD $PATH; bilevel --shell-completion install=fish | source; complete -C 'bilevel task=rid'; "
        "complete -C 'bilevel command=li'"
    )
    done = subprocess.run(["fish", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["task=ridge", "command=list"], done


def test_what_hydra_does_not_complete(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "first").mkdir(parents=True)
    (tmp_path / "outputs" / "file").touch()
    assert candidates("bilevel command=") == [f"command={one}" for one in (*COMMANDS, *WITHOUT_SETTINGS)]
    assert candidates("bilevel experiment=") == [f"experiment={one}" for one in options("experiment")]
    assert candidates("bilevel resume=out") == ["resume=outputs/"]
    assert candidates("bilevel command=report outputs/") == ["outputs/first/"]
    assert candidates("bilevel engine.linear_solve=gm") == ["engine.linear_solve=gmres"]
    assert candidates("bilevel task=ridge opt") == ["optimizer.", "optimizer="]
    assert candidates("bilevel trainer.st") is None and candidates("bilevel hydra/launcher=") is None
    monkeypatch.setenv("COMP_LINE", "bilevel opt")
    assert answered(["-sc", "query=fish"]) and capsys.readouterr().out == "optimizer.\noptimizer=\n"
    assert not answered(["-sc", "install=bash"]) and not answered(["task=ridge"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell, name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    folder, environment = shell
    command = [folder / "bilevel", "--shell-completion", f"install={name}"]
    script = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    (folder / "script").write_text(script)
    assert script.strip()
    assert subprocess.run([name, "-n", folder / "script"], capture_output=True).returncode == 0
