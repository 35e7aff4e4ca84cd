"""The report as a logger: it writes ``report.html`` when the run ends, however it ends."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bilevel.loggers import Logger, Run
from bilevel.loggers.json_lines import write_whole
from bilevel.report.page import page
from bilevel.report.runs import is_run, read

REPORT = "report.html"


class Page(Logger):
    """Writes ``report.html`` into the folder of the run at its end. Give it behind the other loggers: it reads what
    they wrote. A report that cannot be written is a warning, because it must never cost a result.

    >>> import bilevel as bl
    >>> trainer = bl.Trainer(steps=5, loggers=[bl.report.Page()])
    """

    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        if run.directory is None:
            raise ValueError("The report needs the directory of a run: give one to Trainer.fit(directory=).")
        self.directory = Path(run.directory)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Nothing: the record has it."""

    def figure(self, name: str, figure: Any) -> None:
        """Nothing: the folder has it."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        try:
            if is_run(self.directory):
                write_whole(self.directory / REPORT, page([read(self.directory)]))
        except Exception as error:
            if isinstance(error, OSError) and summary.get("status") == "failed":
                return  # the run failed at the same disk, and says so
            warnings.warn(f"{REPORT} could not be written: {type(error).__name__}: {error}", stacklevel=2)
