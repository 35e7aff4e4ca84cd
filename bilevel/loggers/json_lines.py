"""The record of a run in its own directory: metrics as JSON lines, figures, the summary."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from bilevel.loggers.base import Logger, Run, plain
from bilevel.loggers.strict_json import dumps, loads

BYTES = "bytes"  # a checkpoint keeps under this name where the record ended
BLOCK = 1 << 16  # bytes; a line of a record has about a thousand


class JsonLines(Logger):
    """``metrics.jsonl`` with one object for each step, ``figures/NAME.png`` and, at the end, ``summary.json``.

    Each line is flushed as it is written, so that the record survives `kill -9`, and `sync` puts it on the disk before
    each checkpoint. Lines are only appended. A run that goes on from a checkpoint repeats the steps after it, but does
    not write again the lines that the file holds already. Lines after the first torn, missing or doubled one cannot be
    trusted, so they are cut off when the run goes on. A checkpoint holds where its last line ends, so that only the
    lines behind it are read then. The JSON is strict (see `strict_json`).
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
        known = Stretch(step, int(state.get(BYTES, 0)))
        known = known if reaches(path, known) else START
        self.ends = keep_whole_lines(path, known)
        self.last = known.steps + len(self.ends) - 1
        self.end = self.ends.get(step - 1, known.bytes)
        self.file = path.open("ab")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step > self.last:
            self.file.write(f"{dumps({'step': step, **plain(metrics)})}\n".encode())
            self.file.flush()
            self.last = step
        self.end = self.ends.pop(step, 0) or self.file.tell()

    def sync(self) -> None:
        if not os.fstat(self.file.fileno()).st_nlink:  # because writes to a deleted file are lost
            raise FileNotFoundError(f"{self.directory} is gone: it was removed while the run was writing there.")
        os.fsync(self.file.fileno())

    def state(self) -> dict[str, Any]:
        """Where the line of the last step ends."""
        return {BYTES: self.end}

    def figure(self, name: str, figure: Any) -> None:
        path = self.directory / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.file.close()
        write_whole(self.directory / "summary.json", dumps(plain(summary), indent=2) + "\n")


class Stretch(NamedTuple):
    """The first lines of a record: how many, and the bytes that they take."""

    steps: int
    bytes: int


START = Stretch(0, 0)


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a record up to the first that is torn, missing or doubled; none where there is no file."""
    path = Path(path)
    return _whole(_bytes(path))[0] if path.exists() else []


def line_ends(path: Path) -> list[int]:
    """The byte where each of the lines ends that `read_json_lines` reads."""
    return _whole(_bytes(path))[1] if path.exists() else []


def reaches(path: Path, known: Stretch) -> bool:
    """Whether the record still has these lines, from a look at the last of them: a line that is missing or doubled
    before it would have moved it."""
    there = path.exists() and 0 < known.bytes <= path.stat().st_size
    if not there or _bytes(path, known.bytes - 1, known.bytes) != b"\n":
        return False
    return _step_of(_last_line(path, known.bytes)) == known.steps - 1


def read_stretch(path: Path, known: Stretch) -> list[dict[str, Any]]:
    """The first lines of a record. Damaged ones are left out with a warning, because the run has gone on without a look
    at them."""
    read = map(_line, _bytes(path, 0, known.bytes).splitlines(keepends=True))
    lines = [line for number, line in enumerate(read) if line.get("step") == number]
    if len(lines) < known.steps:
        warnings.warn(
            f"{path}: {known.steps - len(lines)} of the first {known.steps} lines cannot be read; the result is told "
            "without them.",
            stacklevel=3,
        )
    return lines


def keep_whole_lines(path: Path, known: Stretch = START) -> dict[int, int]:
    """Cuts off the lines that `read_json_lines` does not read; the lines ``known`` are not looked at. Returns {step:
    byte where its line ends} of the lines behind them. A killed process leaves a torn last line; more damage is
    logged."""
    if not path.exists():
        return {}
    content = _bytes(path, known.bytes)
    lines, lengths = _whole(content, known.steps)
    lost = content[lengths[-1] if lengths else 0 :]
    whole = known.steps + len(lines)
    if more := lost.count(b"\n"):
        warnings.warn(
            f"{path}: line {whole + 1} is not that of step {whole}, so that it and all after it ({more} in all) are "
            "written anew.",
            stacklevel=3,
        )
    if lost:
        with path.open("r+b") as file:
            file.truncate(known.bytes + len(content) - len(lost))
    return {known.steps + number: known.bytes + length for number, length in enumerate(lengths)}


def _bytes(path: Path, begin: int = 0, end: int = -1) -> bytes:
    """The bytes of a file from ``begin`` on, up to ``end`` where that is not negative: all reads of a record."""
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(max(end - begin, 0) if end >= 0 else -1)


def _last_line(path: Path, end: int) -> bytes:
    """The last whole line before byte ``end``, read from there backwards."""
    tail = b""
    while len(tail) < end:
        begin = max(0, end - len(tail) - BLOCK)
        tail = _bytes(path, begin, end - len(tail)) + tail
        if tail.count(b"\n") > 1:
            break
    whole = tail[: tail.rfind(b"\n") + 1]
    return whole[whole[:-1].rfind(b"\n") + 1 :]


def _line(raw: bytes) -> dict[str, Any]:
    """The entries of a line; none where it is torn or damaged."""
    try:
        line = loads(raw.decode())
    except ValueError:
        return {}
    return line if raw.endswith(b"\n") and isinstance(line, dict) else {}


def _step_of(raw: bytes) -> int:
    step = _line(raw).get("step", -1)
    return step if isinstance(step, int) else -1


def _whole(content: bytes, first: int = 0) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of steps ``first``, ``first`` + 1, ..., and where in the bytes each ends."""
    lines: list[dict[str, Any]] = []
    ends: list[int] = []
    for raw in content.splitlines(keepends=True):
        line = _line(raw)
        if line.get("step") != first + len(lines):
            break
        lines.append(line)
        ends.append((ends[-1] if ends else 0) + len(raw))
    return lines, ends


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader finds either the old content or the new one, even after a kill in between."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
