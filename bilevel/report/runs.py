"""The runs that a report is about, read from their folders: nothing there is changed, and no code of theirs is run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bilevel.loggers import JsonLines, read_json_lines
from bilevel.loggers.strict_json import loads
from bilevel.report.commands import overrides_of
from bilevel.verification import Record

SUMMARY = "summary.json"
SETTINGS = Path(".hydra") / "config.yaml"


@dataclass(frozen=True)
class RecordedRun:
    """A run on disk: its record, the overrides that started it, and its pictures by name."""

    folder: Path
    record: Record
    overrides: Sequence[str]
    pictures: Mapping[str, Path]

    @property
    def name(self) -> str:
        """The task and the name of the folder."""
        return f"{task_of(self.record)} ({self.folder.name})"

    @property
    def finished(self) -> bool:
        return "status" in self.record.summary


def task_of(record: Record) -> str:
    """The name of the task; while a run lasts, the name of the function in its settings."""
    settings = record.config.get("task")
    target = settings.get("_target_") if isinstance(settings, Mapping) else None
    return str(record.summary.get("task") or str(target or "task").rpartition(".")[2])


def read(folder: Path) -> RecordedRun:
    """The run in ``folder``. Raises ValueError where none is recorded."""
    lines, summary = read_json_lines(folder / JsonLines.filename), _summary(folder)
    if not lines and not summary:
        raise ValueError(
            f"{folder}: no run is recorded there ({JsonLines.filename} and {SUMMARY} are missing, empty or damaged)."
        )
    pictures = {path.stem: path for path in sorted((folder / "figures").glob("*.png"))}
    record = Record.of(lines, summary, settings_of(folder))
    return RecordedRun(folder, record, overrides_of(folder), pictures)


def found(folders: Iterable[Path]) -> list[RecordedRun]:
    """The runs in the folders given; a folder that is no run, as of a sweep, gives the runs below it. Raises
    ValueError where there is none."""
    runs: list[RecordedRun] = []
    for folder in folders:
        if is_run(folder):
            runs.append(read(folder))
            continue
        below = sorted({path.parent for path in folder.rglob(JsonLines.filename)}, key=_natural)
        below = [place for place in below if is_run(place)]
        if not below:
            raise ValueError(f"{folder}: there is no run in it, nor below it; give the folder of a run or of a sweep.")
        runs += [run for place in below if (run := _read_or_told(place))]
    return runs


def _read_or_told(folder: Path) -> RecordedRun | None:
    """A run of a sweep; a warning and None where its record is damaged, because the others can be told."""
    try:
        return read(folder)
    except ValueError as error:
        warnings.warn(f"{error} It is left out.", stacklevel=3)
        return None


def is_run(folder: Path) -> bool:
    """Whether a folder holds the record of a run."""
    record = folder / JsonLines.filename
    return (record.is_file() and record.stat().st_size > 0) or (folder / SUMMARY).is_file()


def settings_of(folder: Path) -> dict[str, Any]:
    """The recorded settings with their references to each other resolved; {} where they cannot be read."""
    path = folder / SETTINGS
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return _resolved(content, content) if isinstance(content, dict) else {}


def _resolved(value: Any, root: Mapping[str, Any]) -> Any:
    """``${a.b}`` by the value of a.b. What the environment gives (``${oc.env:...}``) stays as it was written."""
    if isinstance(value, dict):
        return {name: _resolved(entry, root) for name, entry in value.items()}
    if isinstance(value, list):
        return [_resolved(entry, root) for entry in value]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if not reference:
        return value
    node: Any = root
    for name in reference[1].split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return value if node is None else node


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        content = loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        warnings.warn(f"{path} is damaged, and left out.", stacklevel=3)
        return {}
    return content


def _natural(path: Path) -> list[Any]:
    """An order in which run 2 comes before run 10."""
    return [[int(word) if word.isdigit() else word for word in re.split(r"(\d+)", part)] for part in path.parts]
