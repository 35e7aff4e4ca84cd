"""The record of a run in its own directory: metrics as JSON lines, figures, the summary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bilevel.loggers.base import Logger, Run, plain


class JsonLines(Logger):
    """``metrics.jsonl`` with one object a step, ``figures/NAME.png`` and, at the end, ``summary.json``.

    Each line is flushed as it is written, so that the record outlives `kill -9`. Lines are only ever appended: a run
    that goes on from a checkpoint repeats the steps after it, and those that are in the file already are not written
    again. NaN and infinity are written as Python's ``json`` does.
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
        lines = read_json_lines(path)
        if lines and not run.resumed:
            raise ValueError(f"{path} holds a run already: resume that one, or choose another directory.")
        drop_partial_line(path)
        self.last = lines[-1]["step"] if lines else -1
        self.file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step <= self.last:
            return
        self.file.write(json.dumps({"step": step, **plain(metrics)}) + "\n")
        self.file.flush()
        self.last = step

    def figure(self, name: str, figure: Any) -> None:
        path = self.directory / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.file.close()
        write_whole(self.directory / "summary.json", json.dumps(plain(summary), indent=2) + "\n")


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The complete lines of a file of JSON lines, in order; none where there is no file. A torn last one is dropped."""
    path = Path(path)
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def drop_partial_line(path: Path) -> None:
    """Cuts what a killed process left of its last line."""
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a kill in between, finds either the old content or the new."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
