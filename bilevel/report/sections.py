"""The sections of the report of one run, each a piece of HTML; "" where the run has nothing for it."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from bilevel.foundation.parts import PARTS, REST
from bilevel.loggers.base import brief
from bilevel.loggers.baselines import baselines_of
from bilevel.report.charts import Band, Curve, chart
from bilevel.report.commands import command
from bilevel.report.runs import RecordedRun
from bilevel.report.words import broken_off, headline_of
from bilevel.training.clock import RECORD, STEPS
from bilevel.training.headline import key, short
from bilevel.verification import Record, diagnose

LOSSES = {"outer/loss": "outer loss (validation)", "test/loss": "test, held out", "stop/loss": "second hold-out"}
STANDARD = ("outer/", "inner/", "adjoint/", "engine/", "counts/", "error_", "seconds", "hparams", "step")
DRAWN = ("training", "hyperparameters")  # pictures that the page has as curves of its own
COMPILING = {"seconds_tracing": "tracing", "seconds_lowering": "lowering", "seconds_compiling": "compilation"}
QUARTILES = {"lower_quartile": "lower quartile", "upper_quartile": "upper quartile"}
WORTH_IT = 1.0  # seconds from which on saving less often is suggested
LEAST = 0.005  # seconds that are told
MOST_STEPS = 8  # traced steps that are told one by one
UNDIVIDED = (
    "The outer steps are not divided into inner solve, adjoint solve, estimate and evaluation, because a trace of one "
    "would have cost more than the run could afford, or could not be read: trainer.profile=true divides them."
)
LARGEST = 3_000_000  # bytes of a picture that is put into the page


def beside_baselines(record: Record) -> str:
    """The figure that counts, its baselines and its start on one scale."""
    head = headline_of(record)
    if not head:
        return ""
    rows = [("this run", head["value"], True), *((name, value, False) for name, value in head["baselines"].items())]
    rows += [("at the start", head["start"], False)] if "start" in head else []
    values = [value for _, value, _ in rows if isinstance(value, int | float) and math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    room = (high - low) or 1.0

    def row(name: str, value: float, best: bool) -> str:
        at = f'<i style="left:{4 + 92 * (value - low) / room:.1f}%"></i>' if math.isfinite(value) else ""
        kind = ' class="best"' if best else ""
        return (
            f'<tr{kind}><td>{escape(name)}</td><td class="n">{short(value)}</td>'
            f'<td style="width:45%"><span class="scale">{at}</span></td></tr>'
        )

    return section(f"{head['name']}, beside what else there is", table(row(*one) for one in rows))


def curves(record: Record) -> str:
    """Losses with the chosen step, the norm of the hypergradient with its error as a band, held-out metrics, steps of
    the solves."""
    lines, best = record.lines, record.summary.get("best_step", -1)
    mark = best if isinstance(best, int) and best >= 0 else None
    others = [name for name in _numbers(lines) if not name.startswith(STANDARD)]
    losses = ["outer/loss", *(name for name in others if name.endswith("/loss"))]
    scores = [name for name in others if not name.endswith("/loss")]
    losing = [ended(record, name, words_of(name)) for name in losses]
    drawn = [
        chart("losses", [*losing, *levels(record, losses)], mark=mark),
        gradient(lines),
        chart("steps of the solves", [_curve(lines, f"{solve}/steps", solve) for solve in ("inner", "adjoint")]),
        *(chart("held-out figures", [ended(record, name) for name in group], mark=mark) for group in _alike(scores)),
    ]
    return section("how it went", f'<div class="charts">{"".join(drawn)}</div>') if any(drawn) else ""


def ended(record: Record, name: str, label: str = "") -> Curve:
    """The line of a metric up to the last iterate, which no outer step measures and the summary has."""
    curve = _curve(record.lines, name, label)
    end = record.summary.get("steps")
    last = record.summary.get("final_outer_loss" if name == "outer/loss" else f"last_{key(name)}")
    if (
        not curve.x
        or broken_off(record)
        or not isinstance(end, int)
        or not isinstance(last, int | float)
        or curve.x[-1] >= end
    ):
        return curve
    return curve._replace(x=[*curve.x, float(end)], y=[*curve.y, float(last)])


def words_of(name: str) -> str:
    """What a loss is called in charts."""
    return LOSSES.get(name, name)


def levels(record: Record, losses: Sequence[str]) -> list[Curve]:
    """A level line over all steps for each baseline of these losses, in the colour of the loss."""
    end = float(record.summary.get("steps", 0))
    return [
        Curve(f"{words_of(name)}: {words}", [0.0, end], [value, value], like=place)
        for place, name in enumerate(losses)
        for words, value in baselines_of(record.summary, name).items()
    ]


def gradient(lines: Sequence[Mapping[str, Any]]) -> str:
    """The norm of the hypergradient, and around it the estimate of its error."""
    norm, error = _curve(lines, "outer/grad_norm", "norm"), _curve(lines, "error_estimate", "estimate of its error")
    band = None
    if len(norm.x) == len(error.x):
        pairs = [(size, off if math.isfinite(off) else math.nan) for size, off in zip(norm.y, error.y, strict=True)]
        band = Band("± its error", norm.x, [max(n - e, 0) for n, e in pairs], [n + e for n, e in pairs])
    return chart("hypergradient", [norm, error], band=band)


def hyperparameters(record: Record) -> str:
    """The hyperparameters found and the path to them: on the scale of the optimiser, and on the natural scale where the
    task gives one."""
    summary = record.summary
    natural, stated = summary.get("hparams_natural") or {}, summary.get("hparams") or {}
    optimised = {f"{name} (as optimised)" if natural else name: value for name, value in stated.items()}
    rows = [*_rows(natural), *_rows(optimised)]
    drawn = "".join(_path(record, name) for name in _paths(record.lines))
    shown = table((_values(name, value) for name, value in rows)) if rows else ""
    body = shown + (f'<div class="charts">{drawn}</div>' if drawn else "")
    return section("hyperparameters found", body) if body else ""


def _path(record: Record, name: str) -> str:
    """The path of the hyperparameters of one array, up to the last iterate: a line each, or the quartiles."""
    lines = [line for line in record.lines if name in line]
    x, values = [float(line["step"]) for line in lines], [line[name] for line in lines]
    end, found = record.summary.get("steps"), record.summary.get("last_hparams")
    last = found.get(name) if isinstance(found, Mapping) else None
    if last is not None and isinstance(end, int) and x[-1] < end:  # no outer step measures the last iterate
        x, values = [*x, float(end)], [*values, last]
    best = record.summary.get("best_step", -1)
    mark = best if isinstance(best, int) and best >= 0 else None
    title = f"path of {name.removesuffix('/quantiles')}"
    if name.endswith("/quantiles"):
        low, first, middle, third, high = ([float(row[k]) for row in values] for k in range(5))
        band = Band("between the quartiles", x, first, third)
        extremes = [Curve("median", x, middle), Curve("least", x, low), Curve("largest", x, high)]
        return chart(title, extremes, band=band, mark=mark)
    columns = [[float(row[k]) for row in values] for k in range(len(values[0]))] if isinstance(values[0], list) else []
    names = _labels(record, len(columns))
    drawn = [Curve(label, x, column) for label, column in zip(names, columns, strict=True)]
    return chart(title, drawn or [Curve(name, x, [float(value) for value in values])], mark=mark)


def _labels(record: Record, number: int) -> list[str]:
    """The names that the task gives its hyperparameters, else their indices."""
    for entries in (record.summary.get("hparams_natural") or {}).values():
        if isinstance(entries, Mapping) and len(entries) == number:
            return [str(name) for name in entries]
    return [str(index) for index in range(number)]


def _paths(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in (lines[0] if lines else {}) if name.startswith("hparams")]


def pictures(run: RecordedRun) -> str:
    """The task's own figures."""
    drawn = [_picture(name, path) for name, path in run.pictures.items() if name not in DRAWN]
    return section("figures", "".join(drawn)) if drawn else ""


def _picture(name: str, path: Path) -> str:
    if path.stat().st_size > LARGEST:
        return f"<p>{escape(name)}: {path.stat().st_size // 1_000_000} MB, too large for this page.</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<img alt="figure {escape(name)}" src="data:image/png;base64,{data}"></figure>'
    )


def cost(record: Record) -> str:
    """Where the time went, and how often the functions of the problem were called."""
    summary = record.summary
    spent = times(record)
    spent += [(f"{words}, a step", f"{seconds:.3g} s") for words, seconds in summary.get("profile", {}).items()]
    rows = []
    for solve in ("inner", "adjoint"):
        if steps := record.series(f"{solve}/steps"):
            rows.append((f"steps of the {solve} solve", f"{statistics.median(steps):.0f} in the median outer step"))
    counts = dict(summary.get("counts") or {})
    rows += [
        (name.replace("_", " "), f"{count:,}") for name, count in counts.items() if isinstance(count, int) and count
    ]
    where = section("where the time went", table(pair(*row) for row in spent) + divided(summary) + saved_often(record))
    return where + (section("steps and calls", table(pair(*row) for row in rows)) if rows else "")


def times(record: Record) -> list[tuple[str, str]]:
    """What the seconds of the run went into; while it lasts, of its steps alone."""
    lines, summary = record.lines, record.summary
    total, parts = _finite(summary.get("seconds_total")), summary.get("seconds_by")
    if isinstance(parts, Mapping) and total > 0:
        known = [(str(name), _finite(seconds)) for name, seconds in parts.items()]
        shown = [(name, f"{seconds:.2f} s ({seconds / total:.0%})") for name, seconds in known if seconds >= LEAST]
        again = next(iter(summary.get("seconds_of_steps") or [0])) > 0
        return [*shown, ("since the run went on, in all" if again else "the whole run", f"{total:.2f} s")]
    spent = sum(_finite(line.get("seconds")) for line in lines)
    compiled = {words: sum(_finite(line.get(name)) for line in lines) for name, words in COMPILING.items()}
    rows = [("outer steps, without compilation", f"{max(spent - sum(compiled.values()), 0):.2f} s")]
    return [*rows, *((words, f"{seconds:.2f} s") for words, seconds in compiled.items())]


def divided(summary: Mapping[str, Any]) -> str:
    """By what the time of the outer steps was divided, or how it could be."""
    if "seconds_by" not in summary:
        return ""
    steps = [str(step) for step in summary.get("seconds_sampled") or []]
    if not steps:
        return "" if summary.get("profile") else f'<p class="soft">{UNDIVIDED}</p>'
    which = f"step {steps[0]}" if len(steps) == 1 else f"steps {', '.join(steps)}"
    which = f"{len(steps)} of the steps" if len(steps) > MOST_STEPS else which
    return f'<p class="soft">The outer steps are divided as the compiler&#8217;s traces of {which} are.</p>'


def saved_often(record: Record) -> str:
    """What to change where saving takes longer than the steps do, as with steps of a few milliseconds."""
    parts = record.summary.get("seconds_by") or {}
    steps = sum(_finite(parts.get(name)) for name in (*PARTS, REST, STEPS))
    saving, every = _finite(parts.get(RECORD)), record.setting("trainer.checkpoint_every", None)
    if saving < max(steps, WORTH_IT) or not isinstance(every, int):
        return ""
    change = "trainer.checkpoint_every=null saves less often"
    return f'<p class="soft">Record and checkpoints took longer than the outer steps: {change}.</p>'


def findings(run: RecordedRun) -> str:
    """The findings of the doctor."""
    found = diagnose(run.record)
    if not found:
        return section("diagnosis", "<p>Nothing that went wrong is on record.</p>")
    items = []
    for one in found:
        change = f"<pre>{escape(command(run.overrides, one.overrides))}</pre>" if one.overrides else ""
        items.append(
            f"<li><b>{escape(one.cause)}</b>: {escape(one.evidence)}.<br>{escape(str(one.cure))}.{change}</li>"
        )
    return section("diagnosis", f"<ol>{''.join(items)}</ol>")


def settings(run: RecordedRun) -> str:
    """The command, all settings, and what the run ran on."""
    made = run.record.summary.get("environment") or {}
    body = f"<pre>{escape(command(run.overrides, []))}</pre>"
    body += table(pair(str(name), str(value)) for name, value in made.items()) if made else ""
    if run.record.config:
        text = yaml.safe_dump(dict(run.record.config), sort_keys=False, allow_unicode=True)
        body += f"<details><summary>all settings</summary><pre>{escape(text)}</pre></details>"
    return section("settings and environment", body)


def section(title: str, body: str) -> str:
    """A heading and what stands below it."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table(rows: Iterable[str]) -> str:
    """A table of rows of HTML, which scrolls by itself where the page is too narrow for it."""
    return f'<div class="table"><table>{"".join(rows)}</table></div>'


def pair(name: str, value: str) -> str:
    return f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"


def _rows(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and value of each entry; of an entry with labels one each."""
    rows: list[tuple[str, Any]] = []
    for name, value in found.items():
        entries = value.items() if isinstance(value, Mapping) else ()
        rows += [(f"{name}, {QUARTILES.get(label, label)}", one) for label, one in entries] or [(name, value)]
    return rows


def _values(name: str, value: Any) -> str:
    numbers = value if isinstance(value, list) else [value]
    return pair(
        name.replace("/quantiles", ": least, quartiles, largest"), ", ".join(brief(number) for number in numbers)
    )


def _curve(lines: Sequence[Mapping[str, Any]], name: str, words: str = "") -> Curve:
    known = [line for line in lines if isinstance(line.get(name), int | float)]
    return Curve(words or name, [float(line["step"]) for line in known], [float(line[name]) for line in known])


def _numbers(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that are numbers, in the order of the record."""
    found: dict[str, None] = {}
    for line in lines[-1:]:
        found |= {name: None for name, value in line.items() if isinstance(value, int | float)}
    return list(found)


def _alike(names: Sequence[str]) -> list[list[str]]:
    """Metrics that share a chart: those with the same first word."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition("/")[0], []).append(name)
    return list(groups.values())


def _finite(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
