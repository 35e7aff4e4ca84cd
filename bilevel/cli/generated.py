"""The choices that need no file: optax's optimisers and schedules, solvers and linear solvers (configs/choices.json,
which ``scripts/choices.py`` writes from the libraries)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FILE = "choices.json"
PLACES = {  # of each group of the file: the group of settings, and the package where it differs from that
    "optimizer": ("optimizer", ""),
    "schedule": ("schedule", "optimizer.learning_rate"),
    "solver": ("solver", ""),
    "linear_solve": ("engine/linear_solve", ""),
}


@functools.cache
def choices(folder: Path) -> dict[str, dict[str, Any]]:
    """{group: {name: {about, node}}} of the file in this folder of settings."""
    return json.loads((folder / FILE).read_text(encoding="utf-8"))


def names(folder: Path, group: str) -> list[str]:
    """The names of a group of settings that the file gives.

    >>> from bilevel.cli.choices import configs
    >>> "lion" in names(configs(), "optimizer"), names(configs(), "task")
    (True, [])
    """
    found = choices(folder)
    return sorted(name for part, (place, _) in PLACES.items() if place == group for name in found[part])


def register(folder: Path) -> None:
    """Hands the choices to Hydra, where no file of the same name is."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for part, (group, package) in PLACES.items():
        for name, entry in choices(folder)[part].items():
            if not (folder / group / f"{name}.yaml").is_file():
                store.store(name, dict(entry["node"]), group=group, package=package or None)
