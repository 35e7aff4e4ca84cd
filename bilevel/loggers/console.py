"""Metrics on the terminal. The one door to rich."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from bilevel.loggers.base import Logger, Run, brief, plain
from bilevel.loggers.baselines import baseline_in_words

WIDE = 100  # columns from which on more than the loss is shown
REDRAWN = 2  # times a second: the clock shows seconds
COST = ("seconds_total", "seconds_per_step", "steps", "steps_skipped", "steps_shortened", "retries")
COMPILATION = ("seconds_tracing", "seconds_lowering", "seconds_compiling")
RUN = (
    *("engine", "solver", "hyperparameters", "unknowns", "status", "best_step", "chosen_by"),
    *("hypergradient_error_estimate", "hypergradient_error_grade", "final_grad_norm", "projected_grad_norm", "blocked"),
)


class Console(Logger):
    """A progress line during the run and a table of the summary at its end, on stderr or in the cell of a notebook.

    Silent where there is neither a terminal nor a notebook. ``every`` is the least number of seconds between two
    updates. At any width the count of steps, the time and the outer loss stay visible; a wide terminal shows more. On a
    terminal the time goes on within a phase, because a clock that stands still looks like a program that hangs.
    """

    shown = ("outer/grad_norm", "inner/steps")

    def __init__(self, every: float = 0.1, file: Any = None, width: int = 120) -> None:
        from rich.console import Console as Terminal

        self.terminal = Terminal(stderr=True) if file is None else Terminal(file=file, force_terminal=True, width=width)
        self.every, self.seen = every, self.terminal.is_terminal or self.terminal.is_jupyter

    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        whole = lambda: Column(no_wrap=True, overflow="crop", min_width=7)
        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=18)),
            MofNCompleteColumn(table_column=whole()),
            TimeElapsedColumn(table_column=whole()),
            TextColumn("{task.fields[metrics]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            *([BarColumn(bar_width=16)] if self.terminal.width >= WIDE else []),
        )
        silent = not self.seen or self.terminal.is_jupyter
        self.progress = Progress(
            *columns, console=self.terminal, refresh_per_second=REDRAWN, transient=True, disable=silent
        )
        self.bar = self.progress.add_task(run.name, total=run.steps, completed=step, metrics="")
        self.progress.start()
        self.cell = Cell(run) if self.terminal.is_jupyter else None
        self.completed, self.profile = step, run.profile
        self.phase("compiling")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.completed = step + 1
        if not self.seen or time.monotonic() - self.updated < self.every:
            return
        shown = self.shown if self.terminal.width >= WIDE else ()
        text = "  ".join(f"{name} {brief(metrics[name])}" for name in ("outer/loss", *shown) if name in metrics)
        self.tell(text)

    def tell(self, text: str | Phase) -> None:
        """Shows the steps done with a text beside them."""
        self.told = text
        if self.cell is not None:
            self.cell.show(self.completed, text.words if isinstance(text, Phase) else text)
        else:
            self.progress.update(self.bar, completed=self.completed, metrics=text, refresh=True)
        self.updated = time.monotonic()

    def phase(self, name: str) -> None:
        self.tell(Phase(name, time.monotonic()))

    def within(self, what: str, done: int, total: int) -> None:
        if isinstance(self.told, Phase):
            counted = f"{done}/{total}" if what == self.told.name else f"{what} {done}/{total}"
            self.tell(replace(self.told, within=counted))

    def figure(self, name: str, figure: Any) -> None:
        """Nothing: a terminal shows no figures."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        if not self.progress.disable:  # rich 13.0 prints an empty line for a silent one
            self.progress.stop()
        if self.cell is not None:
            self.cell.clear()
        if self.seen:
            self.terminal.print(table(plain(summary), self.profile))


@dataclass(frozen=True)
class Phase:
    """What is done beside the steps, with its own time: as text it tells the seconds up to now."""

    name: str
    began: float
    within: str = ""  # how far it is

    @property
    def words(self) -> str:
        return f"{self.name}: {self.within}" if self.within else self.name

    def __str__(self) -> str:
        return f"{self.words} {time.monotonic() - self.began:.0f} s"


class Cell:
    """The progress line in a notebook: an output that is replaced. rich would need ipywidgets for it."""

    def __init__(self, run: Run) -> None:
        self.run, self.began = run, time.monotonic()
        display = importlib.import_module("IPython.display").display
        self.output = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, completed: int, text: str) -> None:
        seconds = time.monotonic() - self.began
        told = f"{self.run.name}  {completed}/{self.run.steps}  {seconds:.0f} s  {text}"
        self.output.update({"text/plain": told}, raw=True)

    def clear(self) -> None:
        self.output.update({"text/plain": ""}, raw=True)


def table(summary: Mapping[str, Any], profile: bool = False) -> Any:
    """The summary in groups: results at the chosen step beside the start, baselines, the run, its cost."""
    from rich import box
    from rich.table import Table

    parts = list(groups(summary, profile))
    several = any(len(row) > 2 for group in parts for row in group)  # an interrupted run has one value for each name
    made = Table(box=box.SIMPLE_HEAD if several else None, show_header=several, header_style="bold", pad_edge=False)
    for heading in ("", "result", "start", "last step"):
        made.add_column(heading, justify="left" if heading == "" else "right")
    for group in parts:
        for row in group:
            made.add_row(*(_cell(value) for value in row))
        if group:
            made.add_section()
    return made


def groups(summary: Mapping[str, Any], profile: bool) -> Iterator[list[tuple[Any, ...]]]:
    """The rows (name, result, start, last) of each group. What no group knows stands with the results."""
    scalars = {name: value for name, value in summary.items() if not isinstance(value, dict | list)}
    losses = [scalars.pop(f"{when}_outer_loss", None) for when in ("best", "initial", "final")]
    results = [("outer loss", *losses)] if any(loss is not None for loss in losses) else []
    taken = {*RUN, *COST, *COMPILATION, "task"}
    measured = [name for name in scalars if f"initial_{name}" in scalars and f"last_{name}" in scalars]
    results += [(name, *(scalars[f"{when}{name}"] for when in ("", "initial_", "last_"))) for name in measured]
    taken |= {f"{when}{name}" for name in measured for when in ("", "initial_", "last_")}
    baselines = _baselines(summary, scalars)
    taken |= {name for name in scalars if name.startswith("baseline_")}
    others = [(name, value) for name, value in scalars.items() if name not in taken]
    yield [*results, *others]
    yield baselines
    run = {name: scalars[name] for name in RUN if name in scalars}
    if run.get("projected_grad_norm") == run.get("final_grad_norm"):  # no set holds the hyperparameters
        run.pop("projected_grad_norm", None)
    yield [(name, value) for name, value in run.items() if name != "blocked" or value]
    counts = [(name.replace("_", " "), number) for name, number in dict(summary.get("counts") or {}).items()]
    spent = [(name, scalars[name]) for name in (*COST, *(COMPILATION if profile else ())) if name in scalars]
    yield [(name, number) for name, number in (*spent, *counts) if number]  # what did not happen is no row


def _baselines(summary: Mapping[str, Any], scalars: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The baselines of the headline in its words, then their other figures in the same words, then what it leaves out
    by name."""
    head = summary.get("headline") or {}
    told = [(f"{head.get('name')} {words}", value) for words, value in head.get("baselines", {}).items()]
    values = {value for _, value in told}
    left = [(name, value) for name, value in scalars.items() if name.startswith("baseline_") and value not in values]
    return [*told, *((baseline_in_words(summary, name), value) for name, value in left)]


def _cell(value: Any) -> str:
    return "" if value is None or value == "" else brief(value).replace("_", " ")
