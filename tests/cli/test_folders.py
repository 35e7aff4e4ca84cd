"""A folder or file that cannot be used is refused in one sentence that names it, before any work."""

import os

import pytest

from bilevel.cli.arguments import translate
from bilevel.cli.folders import refuse_absent, refuse_file, unusable
from bilevel.cli.fresh import new
from bilevel.cli.reports import report
from bilevel.cli.sentences import SettingsError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a file, a link to nothing, and a folder in which nothing may be written."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "closed").mkdir()
    access = lambda path, mode: "closed" not in str(path)  # root may write everywhere
    monkeypatch.setattr(os, "access", access)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["output", "hydra.run.dir", "hydra.sweep.dir"])
@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("file", "file is a file"),
        ("file/run", "file is a file"),
        ("link/run", "link is a link to nothing"),
        ("closed", "nothing may be written in .*closed"),
        ("closed/a/b", "nothing may be written in .*closed"),
    ],
)
def test_an_impossible_folder_of_a_run(place, name, folder, why):
    with pytest.raises(SettingsError, match=f"{name}={folder}: .*{why}; choose another folder by output=DIR"):
        translate([f"{name}={folder}", "task=ridge"])
    assert sorted(os.listdir(place)) == ["closed", "file", "link"]


def test_possible_folders_pass(place):
    assert unusable(place / "new/folder") == "" == unusable(place)
    assert translate(["output=new/folder"]) == ["hydra.run.dir='new/folder'"]
    assert translate(["hydra.run.dir=${now:%H}/run"]) == ["hydra.run.dir=${now:%H}/run"]
    assert translate(["--cfg", "job", "output=file"])[:2] == ["--cfg", "job"]  # writes nothing


def test_a_user_in_a_folder_that_is_closed(place, monkeypatch):
    (place / "closed/.hydra").mkdir()
    (place / "closed/.hydra/config.yaml").write_text("seed: 0\n")
    with pytest.raises(SettingsError, match="resume=closed: nothing may be written in .*; go on in a copy of it"):
        translate(["resume=closed"])
    monkeypatch.chdir(place / "closed")
    with pytest.raises(SettingsError, match="^nothing may be written in .*closed; choose another folder by output=DIR"):
        translate(["task=ridge"])
    with pytest.raises(SettingsError, match="nothing may be written in .*: run command=new in a folder of yours"):
        new(["shrinkage"], {})


def test_a_new_task_needs_room_and_a_name_of_its_own(place):
    (place / "settings").write_text("mine")
    with pytest.raises(SettingsError, match="settings is a file"):
        new(["shrinkage"], {})
    with pytest.raises(SettingsError, match="task=ridge ships with bilevel"):
        new(["ridge"], {})
    assert not list(place.glob("*.py"))


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("closed", "it is a folder; name a file in it, as output=closed/report.html"),
        ("none/report.html", "there is no folder none; make it first"),
        ("file/report.html", "file is a file"),
        ("closed/report.html", "nothing may be written in .*closed"),
    ],
)
def test_an_impossible_report(place, file, why):
    with pytest.raises(SettingsError, match=f"output={file}: .*{why}"):
        refuse_file("output", place.__class__(file))


def test_a_report_on_nothing(place):
    for words, why in ((["file"], "file: it is a file"), (["none"], "none: there is no such folder")):
        with pytest.raises(SettingsError, match=why):
            report(words, {})
    refuse_absent(place)
    (place / "run").mkdir()
    (place / "run/summary.json").write_text('{"a"')
    with pytest.warns(UserWarning, match="summary.json is damaged"):
        with pytest.raises(SettingsError, match="no run is recorded there .* are missing, empty or damaged"):
            report(["run"], {})
