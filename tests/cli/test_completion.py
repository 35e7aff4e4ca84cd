"""Completion of names by the shell: in bash as a user's keys would ask for it; other shells check the script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    lines = ("bilevel task=rid", "bilevel optimizer=lio", "bilevel data=ijc", "bilevel trainer.st")
    done = subprocess.run(
        ["bash", "-c", COMPLETED, "bash", *lines], cwd=folder, env=environment, capture_output=True, text=True
    )
    told = dict(line.split(" -> ") for line in done.stdout.splitlines() if " -> " in line)
    assert "task=ridge" in told["bilevel task=rid"].split(), done.stdout + done.stderr
    assert "optimizer=lion" in told["bilevel optimizer=lio"].split()
    assert {"data=ijcnn1", "data=ijcnn1_test"} <= set(told["bilevel data=ijc"].split())
    assert any(word.startswith("trainer.steps=") for word in told["bilevel trainer.st"].split())


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
