"""The record of a run in its own directory: metrics as JSON lines, figures, the summary."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bilevel.loggers.base import Logger, Run, plain
from bilevel.loggers.strict_json import dumps, loads


class JsonLines(Logger):
    """``metrics.jsonl`` with one object for each step, ``figures/NAME.png`` and, at the end, ``summary.json``.

    Each line is flushed as it is written, so that the record survives `kill -9`, and `sync` puts it on the disk before
    each checkpoint. Lines are only appended. A run that goes on from a checkpoint repeats the steps after it, but does
    not write again the lines that the file holds already. Lines after the first torn, missing or doubled one cannot be
    trusted, so they are cut off when the run goes on. The JSON is strict (see `strict_json`).
    """

    filename = "metrics.jsonl"

    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        if run.directory is None:
            raise ValueError(
                "JsonLines needs a directory to write metrics.jsonl to: give one to Trainer.fit(directory=)."
            )
        self.directory = Path(run.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / self.filename
        if not run.resumed and read_json_lines(path):
            raise ValueError(f"{path} holds a run already: resume that one, or choose another directory.")
        self.last = keep_whole_lines(path) - 1
        self.file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step <= self.last:
            return
        self.file.write(dumps({"step": step, **plain(metrics)}) + "\n")
        self.file.flush()
        self.last = step

    def sync(self) -> None:
        if not os.fstat(self.file.fileno()).st_nlink:  # because writes to a deleted file are lost
            raise FileNotFoundError(f"{self.directory} is gone: it was removed while the run was writing there.")
        os.fsync(self.file.fileno())

    def figure(self, name: str, figure: Any) -> None:
        path = self.directory / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.file.close()
        write_whole(self.directory / "summary.json", dumps(plain(summary), indent=2) + "\n")


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a record up to the first that is torn, missing or doubled; none where there is no file."""
    path = Path(path)
    return _whole(path.read_bytes())[0] if path.exists() else []


def _whole(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The lines of steps 0, 1, 2, ..., and the bytes that they take."""
    lines: list[dict[str, Any]] = []
    length = 0
    for raw in content.splitlines(keepends=True):
        try:
            line = loads(raw.decode())
        except ValueError:
            break
        if not raw.endswith(b"\n") or not isinstance(line, dict) or line.get("step") != len(lines):
            break
        lines.append(line)
        length += len(raw)
    return lines, length


def keep_whole_lines(path: Path) -> int:
    """Cuts off the lines that `read_json_lines` does not read; returns how many lines stay. A killed process leaves a
    torn last line; more damage is logged."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    lines, length = _whole(content)
    lost = content[length:]
    if more := lost.count(b"\n"):
        warnings.warn(
            f"{path}: line {len(lines) + 1} is not that of step {len(lines)}, so that it and all after it ({more} in "
            "all) are written anew.",
            stacklevel=3,
        )
    if lost:
        with path.open("r+b") as file:
            file.truncate(length)
    return len(lines)


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader finds either the old content or the new one, even after a kill in between."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
