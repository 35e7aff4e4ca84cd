"""Where the time of a run goes: its phases by the clock, and the parts of an outer step by traces of a few steps."""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bilevel.foundation.compilation import Program, Seconds
from bilevel.foundation.parts import PARTS, REST, parts_of

COMPILATION, PREPARATION, STEPS, RECORD = "compilation", "preparation", "outer steps", "record and checkpoints"
TRACES = "traces of steps"
SHARE = 0.015  # of the time of a run that traces of its steps may take, all together
AFTERWARDS = 0.05  # the share that they may take with a trace of the final solve, which slows no step
STALLED = 4.0  # times as long as the step before: it stood still, because a trace at most doubles the time
FIRST = 0.1  # seconds that a trace takes besides
LONGER = 10.0  # times as long as its step, which was measured for solves of thousands of small instructions
FAITHFUL = 0.5  # a trace that knows the parts of less of its own time than this says nothing


class Sample(NamedTuple):
    """The seconds of each part in the trace of an outer step."""

    step: int
    seconds: Mapping[str, float]

    def share(self, part: str) -> float:
        return self.seconds.get(part, 0.0) / sum(self.seconds.values())


class Clock:
    """The time of each phase of a run, and samples of how an outer step divides.

    A compiled program cannot be timed in parts from outside, so XLA's own trace of some steps is read. Reading one
    takes as long as ten steps, so a step is traced only when that costs less than `SHARE` of the time of the run so
    far. With ``always`` the final solve is traced at any cost. Only the CPU's traces are read, because those of other
    devices take seconds to begin.
    """

    def __init__(self, compilation: Callable[[], float], reads: bool = True, always: bool = False) -> None:
        self.compilation, self.always = compilation, always
        self.reads = reads and jax.default_backend() == "cpu"
        self.began = self.since = time.perf_counter()
        self.compiled = 0.0
        self.phases: dict[str, float] = defaultdict(float)
        self.phase = PREPARATION
        self.samples: list[Sample] = []
        self.cost, self.longer = 0.0, LONGER

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def enter(self, phase: str) -> None:
        """Ends the phase, and begins another one; compilation within it is counted apart."""
        now, compiled = time.perf_counter(), self.compilation()
        self.phases[self.phase] += now - self.since - (compiled - self.compiled)
        self.phase, self.since, self.compiled = phase, now, compiled

    def step(
        self, step: int, line: Mapping[str, Any], program: Program, count: int = 1
    ) -> AbstractContextManager[None]:
        """The block in which ``program`` takes ``count`` outer steps, with a trace where one is affordable; ``line`` is
        the record of the step before."""
        before = count * net(line)
        return self._traced(step, before, program) if self._affords(before, SHARE) else nullcontext()

    def final(
        self, step: int, line: Mapping[str, Any], program: Program, count: int = 1
    ) -> AbstractContextManager[None]:
        """The block of the final solve, which takes ``count`` looks, with a trace where one is affordable."""
        before = count * net(line)
        asked = self.always and self.reads and before > 0
        return self._traced(step, before, program) if asked or self._affords(before, AFTERWARDS) else nullcontext()

    def _affords(self, before: float, share: float) -> bool:
        """Whether a trace of a block that took so many seconds before costs no more than a share of the run so far."""
        expected = FIRST + self.longer * before
        return self.reads and before > 0 and self.cost + expected <= share * self.seconds

    @contextmanager
    def _traced(self, step: int, before: float, program: Program) -> Iterator[None]:
        """Takes a sample of the step within the block, which ``program`` takes. Where a trace cannot be taken or read,
        as within somebody else's trace, none is tried again."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level, options.enable_hlo_proto = 0, False
                jax.profiler.start_trace(folder, profiler_options=options)
            except Exception:  # of every kind, because a figure must never cost a run
                self.reads = False
            began = time.perf_counter()
            try:
                yield
            finally:
                if self.reads:
                    self._read(step, began, before, program, Path(folder))

    def _read(self, step: int, began: float, before: float, program: Program, folder: Path) -> None:
        """Keeps the sample. Of a step that stood still, as on a loaded machine, the trace says where that happened
        instead of where the time goes."""
        ended = time.perf_counter()
        try:
            jax.profiler.stop_trace()
            (path,) = folder.rglob("*.xplane.pb")
            sample = Sample(step, seconds_of(jax.profiler.ProfileData.from_file(str(path)), parts_of(program.text())))
            self.reads = sum(map(sample.share, PARTS)) >= FAITHFUL
            if self.reads and (self.always or ended - began < STALLED * before):
                self.samples.append(sample)
        except Exception:
            self.reads = False
        spent = time.perf_counter() - ended
        self.phases[TRACES] += spent
        self.phases[self.phase] -= spent
        self.cost += spent + max(ended - began - before, 0.0)
        self.longer = spent / (ended - began)

    def split(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The seconds of the run up to now by what they went into, which add up to all of them. ``lines`` are the
        records of the outer steps that this clock has seen."""
        self.enter(self.phase)
        found = dict(self.phases)
        steps = sum(map(net, lines))
        record = found.pop(STEPS, 0.0) - steps
        divided = divide(lines, self.samples) if self.samples else {STEPS: steps}
        return {
            COMPILATION: self.compiled,
            PREPARATION: found.pop(PREPARATION, 0.0),
            **divided,
            RECORD: record,
            **found,
        }


def net(line: Mapping[str, Any]) -> float:
    """The seconds of an outer step without compilation; 0 where none is on record."""
    return float(line.get("seconds") or 0) - sum(float(line.get(f"seconds_{part}") or 0) for part in Seconds._fields)


def divide(lines: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> dict[str, float]:
    """The seconds of all outer steps by parts: each step is divided as the last sample before it, or as the first."""
    found: dict[str, float] = dict.fromkeys((*PARTS, REST), 0.0)
    steps = [sample.step for sample in samples]
    for line in lines:
        shown = samples[max(bisect_right(steps, line["step"]) - 1, 0)]
        for name in found:
            found[name] += net(line) * shown.share(name)
    return found


def seconds_of(profile: Any, parts: Mapping[str, str]) -> dict[str, float]:
    """The seconds of each part in a trace of XLA: the time of each event without the events within it. An instruction
    outside of all parts belongs to the part of the loop that it stands in."""
    found: dict[str, float] = defaultdict(float)
    for plane in profile.planes:
        for line in plane.lines:
            known = [
                (one.start_ns, one.start_ns + one.duration_ns, one.name) for one in line.events if one.name in parts
            ]
            _add_up(found, sorted(known, key=lambda event: (event[0], -event[1])), parts)
    return found


def _add_up(found: dict[str, float], events: Iterable[tuple[float, float, str]], parts: Mapping[str, str]) -> None:
    open_ones: list[tuple[float, str]] = []  # (end, part), the innermost last
    for start, end, name in events:
        while open_ones and open_ones[-1][0] <= start:
            open_ones.pop()
        outer = open_ones[-1][1] if open_ones else REST
        part = parts[name] or outer
        found[part] += (end - start) / 1e9
        if open_ones:
            found[outer] -= (end - start) / 1e9
        open_ones.append((end, part))
