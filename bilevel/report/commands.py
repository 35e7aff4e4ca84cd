"""The command of a run as it was typed, and the command that changes it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml


def overrides_of(directory: Path) -> list[str]:
    """The overrides that started the run in ``directory``, as they were typed; [] where none are recorded."""
    path = directory / ".hydra" / "overrides.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else []
    except (yaml.YAMLError, UnicodeDecodeError):
        return []
    return typed([str(one) for one in found]) if isinstance(found, list) else []


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
