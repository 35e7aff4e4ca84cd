"""What the programs of this folder share: their command line, where their results go, and the lines of a table."""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path


def parser(doc: str | None, smoke: str) -> argparse.ArgumentParser:
    """A command line with --smoke, which means ``smoke``, and --out."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--smoke", action="store_true", help=f"{smoke}, written to a temporary folder")
    found.add_argument("--out", type=Path, help="the folder to write to; by default that of the committed results")
    return found


def folder(settings: argparse.Namespace, default: Path) -> Path:
    """Where the results go: --out, with --smoke a temporary folder, else ``default``."""
    out = settings.out or (Path(tempfile.mkdtemp()) if settings.smoke else default)
    out.mkdir(parents=True, exist_ok=True)
    return out


def write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table as CSV."""
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([columns, *rows])


def append(path: Path, row: Sequence[object]) -> None:
    """One more row: what was measured is kept if the run is cut off."""
    with path.open("a", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerow(row)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table, each by the names of its columns."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
