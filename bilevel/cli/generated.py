"""The choices that need no file: optax's optimisers and schedules, solvers and linear solvers (configs/choices.json,
which ``scripts/choices.py`` writes from the libraries), and the data sets, which their catalogue names."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FILE = "choices.json"
PLACES = {  # for each group of the file: the group of settings, and the package where that has another name
    "optimizer": ("optimizer", ""),
    "schedule": ("schedule", "optimizer.learning_rate"),
    "solver": ("solver", ""),
    "linear_solve": ("engine/linear_solve", ""),
    "data": ("data", ""),
}
ROOT = "${oc.env:BILEVEL_DATA,''}"  # the folder of published files, unless data.root=DIR names one


def choices(folder: Path, part: str) -> dict[str, Any]:
    """{name: {about, node}} of a part of the file in this folder of settings, or of the data sets."""
    return data_sets() if part == "data" else written(folder)[part]


@functools.cache
def written(folder: Path) -> dict[str, dict[str, Any]]:
    """{part: {name: {about, node}}} of the file in this folder of settings."""
    return json.loads((folder / FILE).read_text(encoding="utf-8"))


@functools.cache
def data_sets() -> dict[str, Any]:
    """{name: {about, node}} of every data set of the catalogue.

    >>> data_sets()["iris"]
    {'about': '150 x 4, 3 classes', 'node': {'name': 'iris', 'root': "${oc.env:BILEVEL_DATA,''}"}}
    """
    from bilevel.data.catalogue import EITHER, SOURCES  # loads NumPy, which not every command needs

    told = {name: source.description for name, source in SOURCES.items()}
    told |= {name: f"{first} if a data folder is named, else {second}" for name, (first, second) in EITHER.items()}
    return {name: {"about": about, "node": {"name": name, "root": ROOT}} for name, about in sorted(told.items())}


def names(folder: Path, group: str) -> list[str]:
    """The names of a group of settings that need no file.

    >>> from bilevel.cli.choices import configs
    >>> "lion" in names(configs(), "optimizer"), names(configs(), "task")
    (True, [])
    """
    return sorted(name for part, (place, _) in PLACES.items() if place == group for name in choices(folder, part))


def register(folder: Path) -> None:
    """Hands to Hydra the choices that have no file of the same name."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for part, (group, package) in PLACES.items():
        for name, entry in choices(folder, part).items():
            if not (folder / group / f"{name}.yaml").is_file():
                store.store(name, dict(entry["node"]), group=group, package=package or None)
