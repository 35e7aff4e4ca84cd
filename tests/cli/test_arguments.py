"""The command line's own words become Hydra's."""

import pathlib

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from bilevel.cli.arguments import GROUPS, quoted, translate
from bilevel.cli.sentences import SettingsError


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["task=ridge", "trainer.steps=3"],
        ["-m", "task=ridge,lasso"],
        ["--config-dir", "a=b", "task=mine"],
        ["task=ridge", "task._target_=mine.ridge", "task.alpha=3"],
        ["resume=null"],
        ["command=train"],
    ],
)
def test_what_hydra_understands_is_left_alone(arguments):
    assert translate(arguments) == arguments


def test_flags_come_first():
    assert translate(["task=ridge", "-m", "engine=a,b", "-cd", "here=there"]) == [
        *("-m", "-cd", "here=there"),
        *("task=ridge", "engine=a,b"),
    ]


def test_an_own_task_starts_without_the_settings_of_the_default_one():
    given = ["seed=1", "task._target_=mine.task", "task.a=1", "+task.b=2", "++task.c=3", "~task.d"]
    assert translate(given) == [
        *("task=own", "seed=1", "task._target_=mine.task"),
        *("++task.a=1", "++task.b=2", "++task.c=3", "~task.d"),
    ]


@pytest.mark.parametrize("name", ["plain", "a b", "it's", "1=2,3", "back\\slash", "{x}[y](z)", "end\\"])
def test_any_folder_can_be_resumed(tmp_path, name):
    folder = tmp_path / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("a: 1\n")
    arguments = translate([f"resume={folder}", "trainer.steps=7"])
    assert f"--config-path={folder}/.hydra" in arguments
    assert "trainer.steps=7" in arguments
    assert f"hydra.run.dir={quoted(folder)}" in arguments
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quoted(folder)}"])
    assert override.value() == str(folder)


NO_FOLDER = (*((name, "") for name in ("output", "resume", "fork")), ("output", "''"), ("hydra.run.dir", ""))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resume=nowhere"], r"resume=nowhere: no run is recorded there \(nowhere/.hydra/config.yaml is missing\)"),
        *(([f"{name}={none}"], f"{name}=: the name of a folder is needed") for name, none in NO_FOLDER),
        (["command=fly"], "command=fly: there is no such command; choose one of train, "),
    ],
)
def test_mistakes(arguments, sentence):
    with pytest.raises(SettingsError, match=sentence):
        translate(arguments)


def test_a_sweep_is_not_resumed(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: 1\n")
    with pytest.raises(SettingsError, match="leave out --multirun"):
        translate([f"resume={tmp_path}", "-m"])


@pytest.mark.parametrize("override", ["task=ridge", "engine=unrolled"])
def test_a_run_that_goes_on_keeps_its_groups(tmp_path, override):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: 1\n")
    name = override.partition("=")[0]
    with pytest.raises(SettingsError, match=f"{override}: a run that goes on keeps its {name}; leave it out"):
        translate([f"resume={tmp_path}", override])


def test_the_groups_are_the_folders_of_settings():
    configs = pathlib.Path(__file__).parents[2] / "configs"
    folders = {folder.name for folder in configs.iterdir() if folder.is_dir()}
    assert folders == {*GROUPS, "hydra"} - {"schedule"}  # schedules need no file


def test_a_run_that_goes_on_is_no_fork():
    with pytest.raises(SettingsError, match="give one of the two"):
        translate(["resume=a", "fork=b"])


def test_a_run_that_goes_on_may_change_its_logger(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("seed: 0\n")
    assert "++choose_logger=wandb" in translate([f"resume={tmp_path}", "logger=wandb"])
    with pytest.raises(SettingsError, match="keeps its optimizer"):
        translate([f"resume={tmp_path}", "optimizer=sgd"])


@pytest.mark.parametrize("settings", ["hydra: {}\n", "defaults: []\n", "# @package hydra\nlauncher: {}\n"])
@pytest.mark.parametrize("command", ["resume=", "fork=", "command=doctor run="])
def test_settings_that_hydra_would_act_on_are_refused(tmp_path, settings, command):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text(settings)
    with pytest.raises(SettingsError, match="could run code of its author"):
        translate(f"{command}{tmp_path}".split())


@pytest.mark.parametrize("line", ["hydra.launcher._target_=mine.f", "+hydra/launcher=ray", "--config-dir=evil", "-m"])
def test_overrides_that_hydra_would_act_on_are_refused(tmp_path, line):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("seed: 0\n")
    (tmp_path / ".hydra/overrides.yaml").write_text(f"- task=ridge\n- {line}\n")
    with pytest.raises(SettingsError, match="could run code of its author"):
        translate([f"fork={tmp_path}"])
