"""A folder holds one run: who may write there, and who may not."""

import subprocess
import sys

import pytest

from bilevel.training import FolderTaken, RunFolder
from bilevel.training.run_folder import LOCK, free_folder

HOLD = """
import sys
from bilevel.training.run_folder import RunFolder
with RunFolder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def record(folder):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')


def test_a_folder_is_claimed_once(tmp_path):
    with RunFolder(tmp_path / "run"):
        with pytest.raises(FolderTaken, match="process .* is writing a run there"):
            RunFolder(tmp_path / "run")
        with pytest.raises(FolderTaken, match="is writing a run there"):
            RunFolder(tmp_path / "run", resume=True)
        record(tmp_path / "run")
    with RunFolder(tmp_path / "run", resume=True):
        pass


@pytest.mark.slow
def test_a_claim_ends_with_its_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(FolderTaken, match=f"process {process.pid}"):
        RunFolder(tmp_path / "run")
    process.kill()
    process.wait()
    RunFolder(tmp_path / "run").release()


@pytest.mark.parametrize("holds", ["metrics.jsonl", "checkpoints"])
def test_a_run_is_not_written_over(tmp_path, holds):
    if holds == "checkpoints":
        (tmp_path / holds / "5").mkdir(parents=True)
    else:
        record(tmp_path)
    with pytest.raises(FolderTaken, match="holds a run already: resume that one"):
        RunFolder(tmp_path)
    with RunFolder(tmp_path, resume=True) as folder:
        assert folder.path == tmp_path


def test_runs_of_one_second_get_folders_of_their_own(tmp_path):
    folders = [free_folder(tmp_path / "12-00-00-ridge") for _ in range(3)]
    assert [one.path.name for one in folders] == ["12-00-00-ridge", "12-00-00-ridge-2", "12-00-00-ridge-3"]
    for one in folders:
        one.release()


def test_a_folder_in_which_nothing_was_written_is_taken_away(tmp_path):
    with RunFolder(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()
    assert not (tmp_path / "run").exists()


def test_a_name_that_checkpoints_cannot_be_stored_under_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has \[ \] in it; choose another"):
        RunFolder(tmp_path / "run[1]")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="the folder of the run cannot be made"):
        RunFolder(tmp_path / "file" / "run")


def test_a_folder_that_was_there_before_stays(tmp_path):
    with RunFolder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_is_let_go(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run" / LOCK).unlink()
    (tmp_path / "run").rmdir()
    folder.release()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_nothing_can_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(ValueError, match="nothing can be written there"):
        RunFolder(tmp_path)
