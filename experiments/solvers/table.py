"""The rows of the benchmark for people: lines, a check of bl.Auto(), and the table of docs/solvers.md."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

START, END = "<!-- benchmark: written by experiments/solvers/benchmark.py --docs -->", "<!-- end of benchmark -->"
ALLOWED = 1.5
NOISE = 1e-3  # seconds by which a time may be off


def text(row: Any) -> str:
    own = f"{row.steps:7d} steps{row.gradients:8d} gradients{row.compile_seconds:7.1f} s compiling" if row.steps else ""
    return f"{row.problem:20s}{row.solver:40s}{row.target:8.0e}{1e3 * row.seconds:12.2f} ms{row.residual:12.1e}{own}"


def is_peer(row: Any) -> bool:
    return ":" in row.solver


def best(rows: list, problem: str, target: float, peers: bool) -> Any:
    """The fastest row, or None where no solver reached the residual."""
    chosen = [
        row for row in rows
        if (row.problem, row.target) == (problem, target) and is_peer(row) == peers and math.isfinite(row.seconds)
    ]  # fmt: skip
    return min(chosen, key=lambda row: row.seconds, default=None)


def auto_check(rows: list) -> str:
    """Each problem and residual at which bl.Auto() takes over 1.5 times the best own solver (and a millisecond)."""
    lines, total = [], 0
    for row in rows:
        fastest = best(rows, row.problem, row.target, peers=False)
        if row.solver != "Auto" or fastest is None:
            continue
        total += 1
        if not row.seconds <= ALLOWED * fastest.seconds + NOISE:
            lines.append(
                f"- {row.problem} at {row.target:.0e}: {_ms(row.seconds)} ms, {fastest.solver} {_ms(fastest.seconds)}"
            )
    summary = (
        f"bl.Auto() within {ALLOWED} of the best own solver (and {1e3 * NOISE:.0f} ms): {total - len(lines)} of {total}"
    )
    return "\n".join([summary, "", *lines])


def markdown(rows: list, page: Path) -> None:
    """Replaces the table between the marks in the page."""
    whole = page.read_text()
    before, rest = whole.split(START)
    _, after = rest.split(END)
    page.write_text(f"{before}{START}\n{table(rows)}\n{END}{after}")


def table(rows: list) -> str:
    targets = sorted({row.target for row in rows}, reverse=True)
    lines = [
        "| problem | | " + " | ".join(f"{target:.0e}" for target in targets) + " |",
        "|---|---|" + "---:|" * len(targets),
    ]
    for problem in dict.fromkeys(row.problem for row in rows):
        auto = {row.target: row for row in rows if row.problem == problem and row.solver == "Auto"}
        cells = [_cell(auto.get(target), "") for target in targets]
        lines.append(f"| {problem} | `bl.Auto()` | {' | '.join(cells)} |")
        for name, peers in (("best of bilevel", False), ("best peer", True)):
            found = [best(rows, problem, target, peers) for target in targets]
            lines.append(f"| | {name} | {' | '.join(_cell(row, row.solver if row else '') for row in found)} |")
    cores = os.cpu_count()
    return "\n".join([*lines, "", f"Machine: {cores}-core {platform.machine()} CPU, float64.", "", auto_check(rows)])


def _cell(row: Any, solver: str) -> str:
    if row is None or not math.isfinite(row.seconds):
        return "-"
    return f"{_ms(row.seconds)} {solver}".strip()


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"
