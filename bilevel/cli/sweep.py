"""The end of a sweep: a table of its runs, best first, as text, as CSV and as a report."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

TABLE = "sweep.csv"
_folders: list[Path] = []  # of the sweep that this process runs


class Remembered(Callback):
    """Remembers the folder of the sweep: Hydra's launchers may run its jobs in other processes."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        _folders[:] = [Path(config.hydra.sweep.dir).absolute()]


def conclude() -> None:
    """Prints the table of the sweep that has just ended and writes it as CSV and as report.html into its folder; no
    more than a sentence where that fails, because the runs are done."""
    for folder in _folders:
        try:
            if folder.is_dir():
                _conclude(folder)
        except (OSError, ValueError) as error:
            print(f"bilevel: the table of the sweep could not be made ({error}).", file=sys.stderr)
    _folders.clear()


def _conclude(folder: Path) -> None:
    from bilevel.loggers.json_lines import write_whole
    from bilevel.report import REPORT, found, page
    from bilevel.report.comparison import as_csv, as_text

    runs = found([folder])
    write_whole(folder / TABLE, as_csv(runs))
    write_whole(folder / REPORT, page(runs))
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 0
    print(
        f"\n{as_text(runs, width)}\n\nTable: {folder / TABLE}\nReport: {folder / REPORT}", file=sys.stderr, flush=True
    )
