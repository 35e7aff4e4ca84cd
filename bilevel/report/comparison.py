"""Several runs beside each other: a table, best first, their curves, and the settings in which they differ."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bilevel.loggers.base import brief
from bilevel.report.charts import COLORS, chart
from bilevel.report.commands import name_of
from bilevel.report.runs import RecordedRun, task_of
from bilevel.report.sections import ended, section, table
from bilevel.report.words import headline_of

MOST = COLORS  # runs whose curves share a chart: the best
WORDS = 30  # letters of the values that tell a run apart, up to which they stand in a legend
MANY = 6  # settings that differ stand in the table of results up to so many, more in a table of their own
SILENT = ("compilation_cache", "progress", "debug", "trainer.profile")  # settings that change no result
UNTOLD = ("task", "report", "logger", "data.root", *SILENT)  # the task has a column; the others change no result either
UNCOMPARED = ("reduced", "preferred", "hydra", "resume", "fork", "run", *SILENT)
BEST = ' class="best"'
GAP = 2  # columns of the terminal between two of the table
LEAST = ("error of gradient", "seconds", "steps")  # the columns that a narrow terminal leaves out first, in this order


def sections_of(runs: Sequence[RecordedRun]) -> str:
    """The table of the runs, their curves, and the settings in which they differ."""
    ordered = ranked(runs)
    told = distinctions(ordered)
    told = {} if len(told) > MANY else told
    columns, rows = comparison(ordered, told)
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    tasks = [task_of(run.record) for run in ordered]
    best = [tasks.index(task) == number for number, task in enumerate(tasks)]  # losses of two tasks do not compare
    body = [f"<tr{BEST if first else ''}>{row}</tr>" for first, row in zip(best, cells, strict=True)]
    note = (
        '<p class="soft">Best first, by the outer loss that the runs minimise; results on test data choose nothing.</p>'
    )
    differing = differences([run.record.config for run in ordered])
    apart = settings(ordered, differing) if set(differing) - set(told) else ""
    return section("results", note + table([f"<tr>{head}</tr>", *body])) + curves(ordered) + apart


def settings(runs: Sequence[RecordedRun], differing: Mapping[str, Sequence[Any]]) -> str:
    """The settings in which the runs differ, a row for each setting and a column for each run."""
    cell = lambda value: f"<td>{escape(brief(value))}</td>"
    head = "".join(f"<th>{escape(run.folder.name)}</th>" for run in runs)
    rows = [f"<tr><td>{escape(name)}</td>{''.join(map(cell, values))}</tr>" for name, values in differing.items()]
    return section("settings that differ", table([f"<tr><th></th>{head}</tr>", *rows]))


def ranked(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """The runs, best first. Runs of one task are ordered by their best outer loss, runs without one last. Runs of
    several tasks are grouped, because losses of different tasks are not comparable."""

    def order(run: RecordedRun) -> tuple[str, bool, float]:
        loss = run.record.summary.get("best_outer_loss", math.nan)
        failed = not isinstance(loss, int | float) or not math.isfinite(loss)
        return task_of(run.record), failed, 0.0 if failed else float(loss)

    return sorted(runs, key=order)


def comparison(
    runs: Sequence[RecordedRun], differing: Mapping[str, Sequence[Any]]
) -> tuple[list[str], list[list[str]]]:
    """Names and cells of the columns: the settings in which the runs differ, then their results."""
    heads = [headline_of(run.record) for run in runs]
    names = {head.get("name") for head in heads if head}
    what = names.pop() if len(names) == 1 else "result"
    columns = ["run", "task", *differing, str(what), "outer loss", "steps", "seconds", "error of gradient", "status"]
    rows = []
    for number, run in enumerate(runs):
        summary = run.record.summary
        cells = [run.folder.name, task_of(run.record), *(values[number] for values in differing.values())]
        cells += [heads[number].get("value"), summary.get("best_outer_loss"), summary.get("steps")]
        error = summary.get("hypergradient_error_estimate")
        error = "unknown" if error in (math.inf, "Infinity") else error  # of engines that do not estimate it
        cells += [summary.get("seconds_total"), error, summary.get("status")]
        rows.append(["" if cell is None else brief(cell) for cell in cells])
    return columns, rows


def distinctions(runs: Sequence[RecordedRun]) -> dict[str, list[Any]]:
    """The typed overrides that differ between the runs, such as engine=one_step, by name with the value of each run;
    the settings that differ, where no typed override does. A group that a run left at its default is "default"."""
    typed = [{name_of(one): one.partition("=")[2] for one in run.overrides} for run in runs]
    flats = [_flat("", run.record.config) for run in runs]
    names = dict.fromkeys(name for words in typed for name in words if name not in UNTOLD)
    values = {
        name: [flat.get(name, words.get(name, "default")) for flat, words in zip(flats, typed, strict=True)]
        for name in names
    }
    told = {name: row for name, row in values.items() if any(value != row[0] for value in row[1:])}
    return told or differences([run.record.config for run in runs])


def differences(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The settings, by dotted name, that are not the same in all runs, with the value of each run. Of settings with the
    same values the first is kept, because a setting often refers to another one.

    >>> differences([{"seed": 0, "task": {"train": 5, "seed": 0}}, {"seed": 1, "task": {"train": 5, "seed": 1}}])
    {'seed': [0, 1]}
    """
    flats = [_flat("", one) for one in settings]
    names = list(dict.fromkeys(name for flat in flats for name in flat if name not in SILENT))
    values = {name: [flat.get(name, "") for flat in flats] for name in names}
    apart = {name: row for name, row in values.items() if any(value != row[0] for value in row[1:])}
    rows = list(apart.values())
    return {name: row for number, (name, row) in enumerate(apart.items()) if row not in rows[:number]}


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value if isinstance(value, int | float | str) else str(value)}
    found: dict[str, Any] = {}
    for name, entry in value.items():
        if prefix or name not in UNCOMPARED:
            found |= _flat(f"{prefix}.{name}" if prefix else str(name), entry)
    return found


def curves(runs: Sequence[RecordedRun]) -> str:
    """Outer loss, first held-out loss and norm of the gradient of the best runs."""
    drawn = []
    shown = list(runs[:MOST])
    told = distinctions(runs)
    values = [", ".join(brief(row[number]) for row in told.values()) for number in range(len(shown))]
    short = max(map(len, values)) <= WORDS
    labels = [f"{run.name}: {words}" if words and short else run.name for run, words in zip(shown, values, strict=True)]
    for title, name in (("outer loss", "outer/loss"), ("test loss", "test/loss"), ("hypergradient", "outer/grad_norm")):
        lines = [ended(run.record, name, label) for run, label in zip(shown, labels, strict=True)]
        drawn.append(chart(title, [line for line in lines if line.x]))
    left = f"<p>The {MOST} best of {len(runs)} runs.</p>" if len(runs) > MOST else ""
    return section("how they went", f'{left}<div class="charts">{"".join(drawn)}</div>') if any(drawn) else ""


def as_csv(runs: Sequence[RecordedRun]) -> str:
    """The table as CSV, best first."""
    ordered = ranked(runs)
    columns, rows = comparison(ordered, distinctions(ordered))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def as_text(runs: Sequence[RecordedRun], width: int = 0) -> str:
    """The table for a terminal, best first. Where ``width`` is positive and too small, columns are left out: the task
    if it is the same in all runs, then those of the cost; what is still too long is cut."""
    ordered = ranked(runs)
    columns, rows = comparison(ordered, distinctions(ordered))
    found = {name: [name, *(row[number] for row in rows)] for number, name in enumerate(columns)}
    same = ["task"] if len({task_of(run.record) for run in ordered}) == 1 else []
    for name in (*same, *LEAST):
        if 0 < width < sum(max(map(len, cells)) + GAP for cells in found.values()) - GAP:
            del found[name]
    sized = [[cell.ljust(max(map(len, cells))) for cell in cells] for cells in found.values()]
    lines = [(" " * GAP).join(cells).rstrip() for cells in zip(*sized, strict=True)]
    return "\n".join(line[:width] if width > 0 else line for line in lines)
