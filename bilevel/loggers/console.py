"""Metrics on the terminal. The one door to rich."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bilevel.loggers.base import Logger, Run, brief, plain


class Console(Logger):
    """A progress line during the run and a table of the summary at its end, on stderr.

    Silent where stderr is no terminal. ``every`` is the least number of seconds between two updates.
    """

    shown = ("outer/loss", "outer/grad_norm", "inner/steps", "adjoint/residual")

    def __init__(self, every: float = 0.1, file: Any = None):
        from rich.console import Console as Terminal

        self.terminal = Terminal(stderr=True) if file is None else Terminal(file=file, force_terminal=True, width=120)
        self.every = every

    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        self.progress = Progress(
            *columns, console=self.terminal, auto_refresh=False, transient=True, disable=not self.terminal.is_terminal
        )
        self.progress.start()
        self.bar = self.progress.add_task(run.name, total=run.steps, completed=step, metrics="compiling")
        self.progress.refresh()
        self.updated = time.monotonic()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if self.progress.disable or time.monotonic() - self.updated < self.every:
            return
        text = "  ".join(f"{name} {brief(metrics[name])}" for name in self.shown if name in metrics)
        self.progress.update(self.bar, completed=step, metrics=text, refresh=True)
        self.updated = time.monotonic()

    def figure(self, name: str, figure: Any) -> None:
        """Nothing: a terminal shows no figures."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        from rich.table import Table

        self.progress.stop()
        if not self.terminal.is_terminal:
            return
        table = Table(show_header=False)
        for name, value in plain(summary).items():
            if not isinstance(value, dict | list):
                table.add_row(name, brief(value))
        self.terminal.print(table)
