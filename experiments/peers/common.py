"""What the benchmarks share: arms timed in turn, ours in this process and each peer's in its own, tables and results.

An arm is a function of nothing that returns {name: array}. Ours are called here; those of a peer by the interpreter
given for it (``--peers jaxopt=ENV/bin/python``), in a process that waits between rounds (see served/protocol.py).
The first run of an arm is its compilation, timed apart. Then rounds: every arm once, in turn, so that a slow phase of
the machine meets all of them. The reported time is the median of the rounds, by the wall clock; processor seconds are
reported beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.common import parser, write as write_table

FOLDER = Path(__file__).resolve().parent
Result = dict[str, np.ndarray]


@dataclass
class Arm:
    """One way to do the work; ``call(repeats)`` returns the answer that served/protocol.py describes."""

    name: str
    call: Callable[[int], dict]


@dataclass
class Timed:
    """What was found about an arm."""

    name: str
    compile_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    result: Result = field(default_factory=dict)
    failed: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu_seconds) if self.cpu_seconds else float("nan")


def own(name: str, run: Callable[[], Mapping[str, Any]]) -> Arm:
    """An arm of this process. Its results are fetched inside the time, as the peers' are."""
    compiled: list[float] = []

    def call(repeats: int) -> dict:
        if not compiled:
            began = time.perf_counter()
            jax.block_until_ready(run())
            compiled.append(time.perf_counter() - began)
        seconds, processor, result = [], [], {}
        for _ in range(repeats):
            began = time.perf_counter(), time.process_time()
            result = {key: np.asarray(value) for key, value in jax.block_until_ready(run()).items()}
            seconds.append(time.perf_counter() - began[0])
            processor.append(time.process_time() - began[1])
        return {
            "seconds": seconds,
            "cpu_seconds": processor,
            "compile_seconds": compiled[0],
            "values": result,
        }

    return Arm(name, call)


@contextmanager
def served(
    script: str, peers: Mapping[str, str], arrays: Mapping[str, Any], only: Sequence[str] = ()
) -> Iterator[list[Arm]]:
    """The arms of the peers that have an interpreter, from ``served/{script}_{peer}.py``, for one problem."""
    with tempfile.TemporaryDirectory() as name:
        np.savez(Path(name) / "problem.npz", **arrays)
        processes, arms = [], []
        try:
            for peer, python in peers.items():
                path = FOLDER / "served" / f"{script}_{peer}.py"
                if not path.exists():
                    continue
                command = [python, str(path), name]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                processes.append(process)
                arms += _arms_of(process, peer, only)
            yield arms
        finally:
            for process in processes:
                process.stdin.close()
                process.wait()


def _arms_of(process: subprocess.Popen, peer: str, only: Sequence[str]) -> list[Arm]:
    assert process.stdin is not None and process.stdout is not None
    streams = process.stdin, process.stdout

    def ask(question: dict) -> dict:
        print(json.dumps(question), file=streams[0], flush=True)
        line = streams[1].readline()
        return json.loads(line) if line else {"failed": "its process ended"}

    line = streams[1].readline()
    if not line:
        print(f"{peer} did not start; see experiments/peers/README.md for its environment.", file=sys.stderr)
        return []
    labels = [label for label in json.loads(line)["arms"] if not only or label in only]
    return [Arm(f"{peer}: {label}", lambda n, label=label: ask({"arm": label, "repeats": n})) for label in labels]


def in_turn(
    arms: Sequence[Arm],
    rounds: int,
    patience: float = 60.0,
    after: Callable[[dict[str, Timed]], object] = lambda found: None,
) -> dict[str, Timed]:
    """All arms, ``rounds`` times in turn; one that has used ``patience`` seconds in its rounds is not asked again.
    ``after`` each round is told what was found so far, so that a run that is cut off leaves that."""
    found = {arm.name: Timed(arm.name) for arm in arms}
    for number in range(rounds):
        for arm in arms:
            timed = found[arm.name]
            if timed.failed or sum(timed.seconds) > patience:
                continue
            _note(timed, arm.call(1), first=number == 0)
        after(found)
    return found


def _note(timed: Timed, answer: dict, first: bool) -> None:
    timed.failed = answer.get("failed", "")
    if timed.failed:
        print(f"{timed.name}: {timed.failed}", file=sys.stderr)
        return
    if first:
        timed.compile_seconds = answer["compile_seconds"]
    timed.seconds += answer["seconds"]
    timed.cpu_seconds += answer["cpu_seconds"]
    timed.result = answer["values"] if "values" in answer else _loaded(answer["result"])


def _loaded(path: str) -> Result:
    with np.load(path) as archive:
        return dict(archive)


def relative_error(found: Any, truth: Any) -> float:
    """||found - truth|| / ||truth||; infinite where something is not finite."""
    found, truth = np.asarray(found), np.asarray(truth)
    error = float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    return error if np.isfinite(error) else float("inf")


def device_name() -> str:
    """The accelerator, or the processor and the number of its cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def arguments(doc: str | None, *peers: str) -> argparse.Namespace:
    """The command line of a benchmark; ``settings.peers`` maps names to interpreters, and who is left out is said."""
    command = parser(doc, "a small problem, a few rounds")
    command.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON", help=f"among {', '.join(peers)}")
    settings = command.parse_args()
    settings.peers = dict(pair.split("=", 1) for pair in settings.peers)
    if unknown := sorted(set(settings.peers) - set(peers)):
        command.error(f"--peers {' '.join(unknown)}: this benchmark knows {', '.join(peers)}.")
    if missing := [peer for peer in peers if peer not in settings.peers]:
        print(f"Left out, since --peers names no interpreter for them: {', '.join(missing)}.")
    if settings.smoke and settings.out is None:
        settings.out = Path(tempfile.mkdtemp())
    return settings


def paths(name: str, out: Path | None) -> tuple[Path, Path]:
    """Where the results and the figure of a benchmark go."""
    results, figures = (FOLDER / "results", FOLDER / "figures") if out is None else (out, out)
    results.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    found = results / f"{name}.csv", figures / f"{name}.png"
    print(f"Results go to {found[0]}, the figure to {found[1]}.", flush=True)
    return found


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as CSV, numbers with four digits, the device beside each; all have the keys of the first. Written whole
    each time, so that a benchmark keeps what it has."""
    device = device_name()
    lines = [[*(shown(value) for value in row.values()), device] for row in rows]
    write_table(path, [*rows[0], "device"], lines)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as a table."""
    cells = [list(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def plain_ticks(*axes: Any) -> None:
    """Logarithmic axes of a decade or two with labels at 1, 2 and 5, which do not run into each other."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def verdict(claim: str, met: bool) -> str:
    """One line for a target: what is aimed at, and whether it was reached in this run."""
    return f"{'met   ' if met else 'MISSED'}  {claim}"
