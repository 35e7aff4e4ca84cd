"""The command of a run as it was typed, and the command that changes it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def overrides_of(directory: Path) -> list[str]:
    """The overrides that started the run in ``directory``, as they were typed; [] where none are recorded. A folder of
    the user's settings (``--config-dir``) stands before them, because they name files in it."""
    found = _content(directory / ".hydra" / "overrides.yaml")
    return [*_own_settings(directory), *typed([str(one) for one in found])] if isinstance(found, list) else []


def _own_settings(directory: Path) -> list[str]:
    """The flag that named a folder of settings when the run started; [] where there was none."""
    recorded = _content(directory / ".hydra" / "hydra.yaml")
    try:
        sources = recorded["hydra"]["runtime"]["config_sources"]
        own = [Path(one["path"]) for one in sources if one["provider"] == "command-line"]
    except (KeyError, TypeError):
        return []
    here = Path.cwd()
    return [f"--config-dir={place.relative_to(here) if place.is_relative_to(here) else place}" for place in own]


def _content(path: Path) -> Any:
    """What a YAML file holds; None where it is missing or cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def typed(overrides: Sequence[str]) -> list[str]:
    """The overrides before `bilevel.cli.arguments.own_task` made them Hydra's.

    >>> typed(["task=own", "task._target_=mine.task", "++task.alpha=0.5"])
    ['task._target_=mine.task', 'task.alpha=0.5']
    """
    if "task=own" not in overrides:
        return list(overrides)
    return [one.replace("++task.", "task.", 1) for one in overrides if one != "task=own"]


def command(given: Sequence[str], change: Sequence[str]) -> str:
    """The command line of the run with a change: an override replaces the override of the same name, a choice of a
    group all overrides within the group.

    >>> command(["task=ridge", "engine=implicit_cg", "engine.linear_solve.tol=1e-3"], ["engine=implicit_dense"])
    'bilevel task=ridge engine=implicit_dense'
    """
    names = [name_of(one) for one in change]
    groups = tuple(f"{name}." for name in names if "." not in name)
    kept = [one for one in given if name_of(one) not in names and not name_of(one).startswith(groups)]
    return shlex.join(["bilevel", *kept, *change])


def name_of(override: str) -> str:
    """The setting or group that an override is of."""
    return override.lstrip("+~").partition("=")[0]
