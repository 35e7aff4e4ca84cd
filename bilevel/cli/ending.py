"""The last lines of a run on the command line, and the answer to a request that a finished run go on."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bilevel.cli.record import is_own
from bilevel.report import REPORT, words
from bilevel.report.commands import overrides_of
from bilevel.report.runs import is_run, read
from bilevel.training.conclusion import FAILED
from bilevel.training.fit import COMPLETED
from bilevel.training.result import Result
from bilevel.verification import Record


def finished(folder: Path, config: DictConfig) -> str:
    """How a run has ended that is asked to go on although nothing is left to do; else "".

    It is "" also where settings are to change, because the run itself then refuses or takes them. The overrides of a
    job of a sweep are those that it was started with.
    """
    context = HydraConfig.get()
    changes = [one for one in context.overrides.task if not is_own(one)]
    if context.mode != RunMode.MULTIRUN and any(not one.startswith("trainer.steps=") for one in changes):
        return ""
    run = None
    with contextlib.suppress(ValueError):  # of a damaged record the run itself says what to do
        run = read(folder) if is_run(folder) else None
    steps = 0 if run is None else len(run.record.lines)
    if run is None or run.record.summary.get("status") != COMPLETED or steps < config.trainer.steps:
        return ""
    more = f"bilevel resume={shlex.quote(short(folder))} trainer.steps={2 * steps}"
    return f"{words.achieved(run.record)} All {steps} steps are taken; more: {more}"


def best_loss(folder: Path) -> float:
    return float(read(folder).record.summary.get("best_outer_loss", float("nan")))


def tell_result(result: Result, folder: Path, settings: dict[str, Any]) -> None:
    """The last lines of a run, on stderr because stdout has the folder alone; one line in a sweep."""
    record, given = Record.of(result.metrics, result.summary, settings), overrides_of(folder)
    context, report = HydraConfig.get(), folder / REPORT
    if context.mode == RunMode.MULTIRUN:
        which = context.job.override_dirname
        lines = [f"{which}: {words.achieved(record)}" if which else words.achieved(record)]
    else:
        lines = words.closing(record, given, short(folder), short(report) if report.is_file() else "")
    if result.summary["status"] != FAILED:  # a failed run ends with one sentence that says why
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
        print("\n".join(at_words(lines, width) if width else lines), file=sys.stderr, flush=True)


def at_words(lines: Sequence[str], width: int) -> list[str]:
    """Lines for a terminal of so many columns, which itself would break them within words. A command at the end of one
    gets a line of its own and stays whole, so that it can be copied.

    >>> at_words(["one two three", "Next: more steps: bilevel resume=run trainer.steps=60"], 10)
    ['one two', 'three', 'Next: more', 'steps:', '  bilevel resume=run trainer.steps=60']
    """
    shown = []
    for line in lines:
        said, colon, command = line.partition(": bilevel ")
        whole = f"{said}:" if colon else said
        fits = len(line) <= width
        shown += [line] if fits else textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
        shown += [f"  bilevel {command}"] if colon and not fits else []
    return shown


def short(directory: Path) -> str:
    """The directory as a user types it: relative to the user's folder, if it lies below that."""
    with contextlib.suppress(ValueError):
        return str(directory.relative_to(Path.cwd()))
    return str(directory)
