"""What the command line adds to Hydra's: resume=DIR, own tasks, commands that write no run directory."""

from __future__ import annotations

import re
from pathlib import Path

from bilevel.cli.sentences import SettingsError

COMMANDS = {
    "train": "bilevel.cli.train:train",
    "check": "bilevel.cli.check:check",
    "data": "bilevel.cli.data:data",
}


def translate(arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them.

    >>> translate(["task._target_=mine.task", "task.alpha=0.5"])
    ['task=own', 'task._target_=mine.task', '++task.alpha=0.5']
    >>> translate(["command=data"])
    ['command=data', 'hydra.run.dir=.', 'hydra.output_subdir=null']
    """
    command = value_of(arguments, "command") or "train"
    if command not in COMMANDS:
        raise SettingsError(f"command={command}: there is no such command; choose one of {', '.join(COMMANDS)}.")
    directory = value_of(arguments, "resume")
    if directory not in (None, "", "null"):
        return resumed(arguments, Path(directory).expanduser())
    if command != "train":
        arguments = [*arguments, "hydra.run.dir=.", "hydra.output_subdir=null"]
    return own_task(arguments)


def value_of(arguments: list[str], name: str) -> str | None:
    """The value of the last ``name=value``; None where there is none."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
    return values[-1] if values else None


def own_task(arguments: list[str]) -> list[str]:
    """A task given by ``task._target_`` alone starts without the settings of the default task."""
    if value_of(arguments, "task._target_") is None or value_of(arguments, "task") is not None:
        return arguments
    return ["task=own", *(re.sub(r"^\+?task\.(?!_target_=)(?=[^=]*=)", "++task.", word) for word in arguments)]


def resumed(arguments: list[str], directory: Path) -> list[str]:
    """The arguments that compose the settings recorded in ``directory`` again, and write there."""
    recorded = directory.absolute() / ".hydra"
    if not (recorded / "config.yaml").is_file():
        raise SettingsError(
            f"resume={directory}: no run is recorded there ({directory / '.hydra' / 'config.yaml'} is missing)."
        )
    if {"-m", "--multirun"} & set(arguments):
        raise SettingsError("resume=DIR goes on with one run: leave out --multirun.")
    others = [argument for argument in arguments if not argument.startswith("resume=")]
    return [
        *others,
        *(f"--config-path={recorded}", "--config-name=config", f"resume={quoted(directory.absolute())}"),
        *(f"hydra.run.dir={quoted(directory.absolute())}", "hydra.output_subdir=null"),
        *("hydra.job.name=bilevel", "hydra.job.chdir=false", "hydra.job_logging.root.level=WARNING"),
    ]


def quoted(path: Path) -> str:
    """A path as a value that Hydra's grammar reads back unchanged."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
