"""The report: one HTML file that needs no network, for a run, several runs or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bilevel.report import comparison, sections
from bilevel.report.runs import RecordedRun
from bilevel.report.style import STYLE
from bilevel.report.words import achieved, advice, chosen, solved_problem, trust

# No script, and nothing from anywhere: what a task or a setting has in its text cannot act in the reader's browser.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

WHOLE = 20  # runs of a comparison that are told in full, because each brings its pictures


def page(runs: Sequence[RecordedRun], refresh: int = 0) -> str:
    """The HTML of the report on these runs; a browser loads it again every ``refresh`` seconds where that is positive.

    One run is told in full. Several are compared, and the best of them are told in full below, folded.
    """
    if not runs:
        raise ValueError("A report needs at least one run.")
    if len(runs) == 1:
        return document(achieved(runs[0].record), whole(runs[0]), refresh)
    folded = (
        f"<details><summary>{escape(run.folder.name)}: {escape(achieved(run.record))}</summary>{whole(run)}</details>"
        for run in comparison.ranked(runs)[:WHOLE]
    )
    heading = "each run" if len(runs) <= WHOLE else f"the {WHOLE} best of {len(runs)} runs"
    title = f"{len(runs)} runs compared"
    body = f"<h1>{title}</h1>{comparison.sections_of(runs)}{sections.section(heading, ''.join(folded))}"
    return document(title, body, refresh)


def whole(run: RecordedRun) -> str:
    """All sections on one run."""
    record = run.record
    problem = solved_problem(dict(record.summary)) if record.summary else str(run.folder)
    told = [chosen(record), trust(record)]
    if run.finished:
        told.append(f"Next: {advice(record, run.overrides, str(run.folder))}")
    else:
        told.append(f"{len(record.lines)} of {record.setting('trainer.steps', '?')} outer steps are done.")
    return "".join(
        [
            f"<h1>{escape(achieved(record))}</h1>",
            f'<p class="soft">{escape(problem)}</p>',
            *(f"<p>{escape(line)}</p>" for line in told if line),
            sections.beside_baselines(record),
            sections.curves(record),
            sections.hyperparameters(record),
            sections.pictures(run),
            sections.cost(record),
            sections.findings(run),
            sections.settings(run),
        ]
    )


def document(title: str, body: str, refresh: int) -> str:
    """A whole HTML document around a body."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh > 0 else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
