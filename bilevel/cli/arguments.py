"""Additions to Hydra's command line: resume=DIR, users' tasks, commands that write no run directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from bilevel.cli.choices import configs
from bilevel.cli.commands import COMMANDS as WITHOUT_SETTINGS
from bilevel.cli.folders import NAMED, refuse_folder, unusable
from bilevel.cli.generated import names
from bilevel.cli.sentences import SettingsError, nearest
from bilevel.cli.words import FLAGS, TAKES_VALUE, is_setting, meant, similar

COMMANDS = {
    "train": "bilevel.cli.train:train",
    "check": "bilevel.cli.check:check",
    "data": "bilevel.cli.data:data",
    "doctor": "bilevel.cli.doctor:doctor",
}
GROUPS = (
    "data",
    "distributed",
    "engine",
    "experiment",
    "logger",
    "mesh",
    "optimizer",
    "schedule",
    "solver",
    "task",
    "trainer",
)
UNIQUE = ("hydra.run.dir", "resume", "fork")  # of one run
LOGGER = "choose_logger"  # logger=NAME of a run that goes on, because recorded settings have no groups to choose from
QUIET = (  # this package's settings of Hydra, for settings that are read from another folder
    *("hydra.job.name=bilevel", "hydra.job.chdir=false", "hydra/job_logging=stdout"),
    *("hydra.job_logging.handlers.console.stream=ext://sys.stderr", "hydra.job_logging.root.level=WARNING"),
)


def translate(arguments: list[str]) -> list[str]:
    """The arguments in the order that Hydra takes: flags first, then overrides.

    >>> translate(["task._target_=mine.task", "-m", "task.alpha=0.5,1"])
    ['-m', 'task=own', 'task._target_=mine.task', '++task.alpha=0.5,1']
    >>> translate(["command=data"])
    ['command=data', 'hydra.run.dir=.', 'hydra.output_subdir=null']
    """
    flags, overrides = separated(arguments)
    command = value_of(overrides, "command") or "train"
    if command not in COMMANDS:
        known = (*COMMANDS, *WITHOUT_SETTINGS)
        raise SettingsError(
            f"command={command}: there is no such command{nearest(command, known)}; choose one of {', '.join(known)}."
        )
    if command == "doctor":
        return examined(flags, overrides)
    refuse_words(flags)
    if {"-m", "--multirun"} & set(flags) and value_of(overrides, "distributed.coordinator"):
        raise SettingsError(
            "distributed.coordinator is of one run: leave out --multirun, or distribute the runs of the sweep by "
            "hydra/launcher=ray_cluster."
        )
    refuse_no_folder(overrides)
    if command == "train" and not {"--cfg", "-c", "--info", "-i"} & set(flags):
        refuse_unwritable(overrides)
    overrides = [in_full(one, flags, overrides) for one in overrides]
    directory, origin = (folder_of(overrides, name) for name in ("resume", "fork"))
    if directory and origin:
        raise SettingsError("resume=DIR goes on with a run, and fork=DIR starts a new one: give one of the two.")
    if directory:
        return resumed(flags, overrides, directory)
    if origin:
        return forked(flags, overrides, origin)
    if command != "train":
        overrides = [*overrides, "hydra.run.dir=.", "hydra.output_subdir=null"]
    return [*flags, *own_task(overrides)]


def in_full(override: str, flags: list[str], overrides: list[str]) -> str:
    """The override that a short form stands for: output=DIR, and engine.linear_solve=NAME.

    >>> in_full("output=my run", [], []), in_full("engine.linear_solve=cg", [], [])
    ("hydra.run.dir='my run'", '+engine/linear_solve=cg')
    """
    name, _, value = override.partition("=")
    if name == "output":
        if folder_of(overrides, "resume"):
            raise SettingsError("resume=DIR goes on in the folder of that run: leave out output, or use fork=DIR.")
        place = value if re.match("['\"]", value) else quoted(Path(value).expanduser())
        return f"hydra.{'sweep' if {'-m', '--multirun'} & set(flags) else 'run'}.dir={place}"
    if name in ("hydra.launcher", "hydra.sweeper") and re.fullmatch(r"\w+", value):
        raise SettingsError(f"{override}: it is chosen by {name.replace('.', '/')}={value}, with a slash.")
    if name == "engine.linear_solve" and re.fullmatch(r"\w+", value) and value != "null":
        if value not in (known := names(configs(), "engine/linear_solve")):
            raise SettingsError(
                f"{override}: there is no such linear solver{nearest(value, known)}; choose one of {', '.join(known)}."
            )
        return f"+engine/linear_solve={value}"
    return override


def separated(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Flags (with their values) and overrides, apart, because argparse does not take them mixed."""
    before = ["", *arguments]
    is_override = [
        not word.startswith("-") and ("=" in word or word.startswith("~")) and last not in TAKES_VALUE
        for last, word in zip(before, arguments, strict=False)
    ]
    flags = [word for word, override in zip(arguments, is_override, strict=True) if not override]
    return flags, [word for word, override in zip(arguments, is_override, strict=True) if override]


def refuse_words(flags: list[str]) -> None:
    """SettingsError for an unknown flag, and for a word without a name.

    >>> refuse_words(["-m", "--config-dir", "settings"])
    >>> refuse_words(["ridge"])
    Traceback (most recent call last):
    bilevel.cli.sentences.SettingsError: ridge: settings are given as NAME=VALUE (did you mean task=ridge?).
    """
    for last, word in zip(["", *flags], flags, strict=False):
        if word.startswith("-"):
            name = word.partition("=")[0]
            if not any(flag == name or (len(name) > 3 and flag.startswith(name)) for flag in (*FLAGS, *TAKES_VALUE)):
                if "=" in word and is_setting(name.lstrip("-")):
                    of_agent = "WANDB_SWEEP_ID" in os.environ
                    agent = ", as an agent of W&B gives them by ${args_no_hyphens} in the command of its sweep"
                    raise SettingsError(
                        f"{word}: settings have no hyphens before them: {word.lstrip('-')}{agent * of_agent}."
                    )
                meant_flag = similar(name.lstrip("-")) or nearest(name, FLAGS)
                raise SettingsError(f"{word}: there is no such flag; settings are given as NAME=VALUE{meant_flag}.")
        elif last not in TAKES_VALUE:
            guess = meant(word, (*COMMANDS, *WITHOUT_SETTINGS))
            raise SettingsError(f"{word}: settings are given as NAME=VALUE{guess}.")


def refuse_no_folder(overrides: list[str]) -> None:
    """SettingsError for an empty folder, as a variable of the shell that is not set gives it: the run would otherwise
    be written into the folder where it was started, or be a new one.

    >>> refuse_no_folder(["output="])
    Traceback (most recent call last):
    bilevel.cli.sentences.SettingsError: output=: the name of a folder is needed, as in output=DIR.
    """
    for name in (*NAMED, "resume", "fork"):
        if value_of(overrides, name) == "":
            raise SettingsError(f"{name}=: the name of a folder is needed, as in {name}=DIR.")


def refuse_unwritable(overrides: list[str]) -> None:
    """SettingsError where the folder of a run, or of a sweep, cannot be made or written to."""
    going = folder_of(overrides, "resume")
    if going and going.is_dir() and (why := unusable(going)):
        raise SettingsError(f"resume={going}: {why}; go on in a copy of it, or start a new run by fork={going}.")
    given = [(name, place) for name in NAMED if (place := folder_of(overrides, name))]
    for name, place in given or [("", Path())] * (going is None):
        if "${" not in str(place):  # Hydra makes the name, as of a date
            refuse_folder(name, place)


def value_of(arguments: list[str], name: str) -> str | None:
    """The value of the last ``name=value`` without Hydra's quotes; None where there is none."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
    return re.sub(r"^(['\"])(.*)\1$", r"\2", values[-1]) if values else None


def folder_of(overrides: list[str], name: str) -> Path | None:
    """The folder that ``name=DIR`` gives; None where there is none."""
    given = value_of(overrides, name)
    return None if given in (None, "", "null") else Path(given).expanduser()


def own_task(arguments: list[str]) -> list[str]:
    """A task given by ``task._target_`` alone starts without the settings of the default task."""
    if value_of(arguments, "task._target_") is None or value_of(arguments, "task") is not None:
        return arguments
    return ["task=own", *(re.sub(r"^\+?task\.(?!_target_=)(?=[^=]*=)", "++task.", word) for word in arguments)]


def resumed(flags: list[str], overrides: list[str], directory: Path) -> list[str]:
    """The arguments that compose the settings recorded in ``directory`` again, and write there."""
    recorded = settings_of(directory, "resume")
    if {"-m", "--multirun"} & set(flags):
        raise SettingsError("resume=DIR goes on with one run: leave out --multirun.")
    for override in overrides:
        if (name := override.partition("=")[0]) in GROUPS and name != "logger":
            raise SettingsError(
                f"{override}: a run that goes on keeps its {name}; leave it out, or start a new run from its "
                f"hyperparameters by fork={directory}."
            )
    place = quoted(directory.absolute())
    return [
        *(*flags, *recorded),
        *(
            re.sub("^logger=", f"++{LOGGER}=", one)
            for one in map(of_processes, overrides)
            if not one.startswith("resume=")
        ),
        *(f"resume={place}", f"hydra.run.dir={place}", "hydra.output_subdir=null", *QUIET),
    ]


def of_processes(override: str) -> str:
    """A setting of the group ``distributed``, which a run of an earlier version has no record of."""
    return re.sub(r"^(?=distributed\.)", "++", override)


def forked(flags: list[str], overrides: list[str], directory: Path) -> list[str]:
    """The arguments of the run in ``directory``, changed by those given, for a new run that starts where it ended."""
    settings_of(directory, "fork")
    recorded = plain_yaml(path := directory / ".hydra" / "overrides.yaml", list)
    for one in recorded:
        if not re.match(r"[+~]*(?!hydra\b)\w", str(one)):
            raise foreign(path, str(one))
    given = {override.lstrip("+~").partition("=")[0] for override in overrides}
    kept = [one for one in recorded if one.lstrip("+~").partition("=")[0] not in {*given, *UNIQUE}]
    return [
        *flags,
        *own_task([*kept, *(one for one in overrides if not one.startswith("fork="))]),
        f"fork={quoted(directory.absolute())}",
    ]


def examined(flags: list[str], overrides: list[str]) -> list[str]:
    """The arguments of ``command=doctor RUN``: the settings recorded in RUN, and the folder of the run."""
    folders = [word for word in overrides if Path(word).expanduser().is_dir()]  # a folder may be named lr=0.1
    overrides = [word for word in overrides if word not in folders]
    words = [*(word for word in flags if not word.startswith("-")), *folders]
    directory = value_of(overrides, "run") or (words[0] if words else None)
    if directory is None:
        raise SettingsError("command=doctor needs the directory of a run: bilevel command=doctor outputs/...")
    place = Path(directory).expanduser()
    return [
        *(flag for flag in flags if flag not in words),
        *settings_of(place, "run"),
        *(re.sub(r"^replay=", "++replay=", one) for one in overrides if not one.startswith("run=")),
        *(f"++run={quoted(place.absolute())}", "hydra.run.dir=.", "hydra.output_subdir=null", *QUIET),
    ]


def settings_of(directory: Path, name: str) -> tuple[str, str]:
    """The flags that make Hydra compose the settings recorded in ``directory``."""
    recorded = directory.absolute() / ".hydra"
    if not (recorded / "config.yaml").is_file():
        raise SettingsError(
            f"{name}={directory}: no run is recorded there ({directory / '.hydra' / 'config.yaml'} is missing)."
        )
    settings = plain_yaml(recorded / "config.yaml", dict)
    if wrong := sorted({"hydra", "defaults"} & set(settings)):
        raise foreign(recorded / "config.yaml", f"a node {wrong[0]!r}")
    if "@package" in (recorded / "config.yaml").read_text(encoding="utf-8"):
        raise foreign(recorded / "config.yaml", "'@package'")
    return f"--config-path={recorded}", "--config-name=config"


def foreign(path: Path, what: str) -> SettingsError:
    """The refusal of a record that holds settings which Hydra would act on."""
    return SettingsError(
        f"{path} has {what} in it, which bilevel does not write there and which could run code of its author: remove "
        "it if you trust the file."
    )


def plain_yaml(path: Path, kind: type) -> Any:
    """The content of a YAML file, read without running any code."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else kind()
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, kind):
        raise SettingsError(f"{path} does not hold the settings of a run.")
    return content


def quoted(path: Path) -> str:
    """A path as a value that Hydra's grammar reads back unchanged; it reads backslashes only before a quote."""
    escaped = re.sub(r"(\\*)'", r"\1\1\'", str(path))
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
