"""What is left behind by a command that is refused."""

import os
import subprocess
import sys

import pytest

from bilevel.cli.entry import BEGAN, take_away_empty
from bilevel.cli.interrupts import PIPE_CLOSED
from bilevel.cli.train import of_storage


@pytest.mark.parametrize("place", [".", "elsewhere"])
def test_empty_folders_made_for_a_refused_run_are_taken_away(tmp_path, monkeypatch, place):
    (tmp_path / place).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / place)
    (tmp_path / "outputs/today/run").mkdir(parents=True)
    take_away_empty(tmp_path / "outputs/today/run")
    assert not (tmp_path / "outputs/today/run").exists()
    assert (tmp_path / "outputs").exists() == (place == "elsewhere")  # what is not below the user may be anybody's


def test_folders_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full/run").mkdir(parents=True)
    (tmp_path / "full/run/note").write_text("mine")
    (tmp_path / "older").mkdir()
    os.utime(tmp_path / "older", (BEGAN - 60, BEGAN - 60))
    for folder in ("full/run", "older", "."):
        take_away_empty(tmp_path / folder)
    assert (tmp_path / "full/run/note").exists() and (tmp_path / "older").exists()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("RESOURCE_EXHAUSTED: Failed: No space left on device [28]"), "No space left on device"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory"), ""),
        (OSError("odd."), "odd"),
    ],
)
def test_a_full_disk_is_known_from_whoever_tells_it(error, word):
    assert of_storage(error) == word


@pytest.mark.parametrize("argument", ["--help", "command=list", "command=data"])
def test_a_reader_that_has_enough_is_no_error(argument):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "bilevel", argument], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.returncode == PIPE_CLOSED and not done.stderr
