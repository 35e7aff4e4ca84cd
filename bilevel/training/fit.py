"""One run of the outer loop: its steps, their record, the checkpoints and the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from bilevel.foundation.compilation import Seconds
from bilevel.foundation.parts import PARTS
from bilevel.foundation.progress import heard_by
from bilevel.foundation.readable import counted
from bilevel.foundation.typing import HParams, Key, Params
from bilevel.loggers import JsonLines, Run
from bilevel.loggers.base import INTERRUPTED, by_name, finish_all, plain
from bilevel.task import Task
from bilevel.training.callbacks import Moment, asks_to_end
from bilevel.training.calls import Entry
from bilevel.training.checkpoint import Checkpoints, Pace
from bilevel.training.clock import STEPS, Clock, divide
from bilevel.training.conclusion import broken_off, concluded, with_baselines, with_headline
from bilevel.training.continuation import Earlier, fingerprint, restored
from bilevel.training.environment import environment
from bilevel.training.figures import figures, keep_figure
from bilevel.training.found import path_of
from bilevel.training.outer_step import Evaluation, metrics_of
from bilevel.training.processes import anywhere, is_loss, leads, loss, meet, several, stops_heard, whole
from bilevel.training.profile import profiled
from bilevel.training.refusals import Settings
from bilevel.training.result import Result
from bilevel.training.snapshots import Snapshots
from bilevel.training.steps import Steps

COMPLETED = "completed"  # the status of a run that took all of its steps


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a fit, raised after the state and, with a directory, the result so far (``result.npz``) were
    saved. ``result`` is that result: the best step so far, and a summary without baselines."""

    def __init__(self, text: str, result: Result) -> None:
        super().__init__(text)
        self.result = result

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, Result]]:
        return Interrupted, (str(self), self.result)  # because a pool of processes sends it to the one that waits


class Fit(Steps):
    """A run in progress: its steps, and the open files that keep them."""

    def __init__(self, trainer: Settings, task: Task, key: Key, directory: Path | None, stack: ExitStack) -> None:
        reads = leads() and (directory is not None or trainer.profile)
        self.clock = Clock(self._compiled, reads=reads, always=trainer.profile)
        super().__init__(trainer, task, key)
        self.folder = directory  # of all processes
        self.directory = directory if leads() else None  # of the one that writes the record
        self.earlier = Earlier()
        self.metrics: list[dict[str, Any]] = []  # of the steps that this process takes
        self.halted = False  # by a callback
        self.doing = ""  # the phase after the steps
        self.data: list[list[float]] = []  # a later run recognises the same data by it
        self.snapshots = Snapshots(self.directory)
        self.checkpoints = stack.enter_context(Checkpoints(directory / "checkpoints")) if directory else None
        self.pace = Pace()
        self.loggers = [*([JsonLines()] if directory else []), *trainer.loggers] if leads() else []

    def run(self, resume: bool, config: Mapping[str, Any]) -> Result:
        """Runs to the last step, or to an early stop; the loggers are closed in any case."""
        self._open(resume, config)
        summary: dict[str, Any] = {}
        found: Result | None = None  # of the steps, where baselines or figures fail or are interrupted
        try:
            self.clock.enter(STEPS)
            with stops_heard() as asked_to_stop:
                while not self._done():
                    self._step()
                    if several() and asked_to_stop():
                        raise KeyboardInterrupt
            self._phase("final solve")
            result = found = self._conclude()
            self._keep(result)  # saved before baselines and figures, which may take long and be interrupted
            self._phase("baselines")
            if leads():  # they may need all of the data, of which the other processes hold their part
                with heard_by(self._progress):
                    result = with_baselines(result, self.task)
            if self.trainer.profile:
                self._phase("profile")
                result.summary["profile"] = self._profile()
            self._phase("figures")
            with heard_by(self._progress):
                self._draw(result)
            result.summary.update(self._seconds())
            summary = result.summary
            return result
        except KeyboardInterrupt as interrupt:
            where = self._where()
            self._phase("saving")
            self._save(force=True)
            result = self._so_far(found)
            self._keep(result)
            summary = result.summary
            raise Interrupted(where, result) from interrupt
        except (ValueError, RuntimeError) as error:
            if not is_loss(error):
                raise
            summary = {"task": self.task.name, "status": "failed", "failed_because": str(loss())}
            raise loss() from error
        finally:
            finish_all(self.loggers, summary or self._failed(found))

    def _profile(self) -> dict[str, float]:
        """The seconds of each part in one outer step: by traces where there are some, else compiled and timed alone."""
        if not self.clock.samples:
            return profiled(self.task, self.engine, self.state)
        divided = divide(self.metrics, self.clock.samples)
        return {name: divided[name] / len(self.metrics) for name in PARTS}

    def _failed(self, found: Result | None) -> dict[str, Any]:
        """The summary of a run that failed, with the figures of its steps where the failure came after them."""
        return {**self.sizes(), **(found.summary if found else {}), "status": "failed", "failure": self.failure}

    def _where(self) -> str:
        """Where an interrupted run was."""
        done = int(self.state.step)
        during = f", during the phase {self.doing}" if self.doing else ""
        return f"interrupted after {counted(done, 'outer step')} of {self.trainer.steps:,}{during}"

    def _phase(self, name: str) -> None:
        self.doing = name
        self.clock.enter(name)
        for logger in self.loggers:
            logger.phase(name)

    def _progress(self, what: str, done: int, total: int) -> None:
        for logger in self.loggers:
            logger.within(what, done, total)

    def _keep(self, result: Result) -> None:
        if self.directory:
            result.save_arrays(self.directory / "result.npz")

    def _so_far(self, found: Result | None) -> Result:
        """The result of an interrupted run: of its steps where all were taken, else what their record says."""
        told = {"status": INTERRUPTED}
        if found is not None:
            return with_headline(replace(found, summary={**found.summary, **told}), self.task)
        step = int(self.state.step)  # a step that was interrupted within its record is taken again
        lines = [line for line in (*self.earlier.read(), *self.metrics) if line["step"] < step]
        result = broken_off(self.task, lines, whole(self.state), {**self._told(), **told})
        return replace(result, snapshots=self.snapshots.kept)

    def _open(self, resume: bool, config: Mapping[str, Any]) -> None:
        kept: dict[str, Any] = {}
        if resume and self.checkpoints and self.folder and self.checkpoints.latest() is not None:
            self.state, self.earlier, meta = restored(
                self.checkpoints, self.folder / JsonLines.filename, self.state, self._data()
            )
            meet("restored")  # before the first process writes to the record that the others read
            kept, self.border = meta["loggers"], meta.get("border", "")
            self.snapshots.restore(whole(self.state.hparams), int(self.state.step))
        trainer = self.trainer
        run = Run(self.directory, config, trainer.steps, self.task.name, resume, trainer.profile)
        for name, logger in by_name(self.loggers).items():
            logger.start(run, int(self.state.step), kept.get(name, {}))

    def _data(self) -> list[list[float]]:
        return fingerprint(self.task.batches(jax.random.split(whole(self.state.key))[0], 0))

    def _step(self) -> None:
        """One outer step, or several in one call; the call leaves to the host the step that fails."""
        count = self._until_saved()
        if count == 1 or not self._call(count):
            with self.clock.step(*self._next(), self.advance):
                began, compiled = time.perf_counter(), self.advance.seconds
                state, evaluation = self.attempt()
                taken = state.hparams if int(evaluation.report.skipped) else state.previous
                spent = time.perf_counter() - began, self.advance.seconds.since(compiled).named()
            taken = whole(taken)
            self._noted(int(self.state.step), evaluation, taken, *spent)
            self.state = state  # assigned late, so that Ctrl-C leaves no step without its line
            self._save()
            self._told_callbacks(taken, whole(evaluation.report.params) if self.trainer.callbacks else None)

    def _next(self) -> tuple[int, dict[str, Any]]:
        """The number of the next step, and the record of the one before where this process took it."""
        return int(self.state.step), self.metrics[-1] if self.metrics else {}

    def _until_saved(self) -> int:
        """The steps of the next call: it ends at the next checkpoint and at the end of the run."""
        step, every = int(self.state.step), self.trainer.checkpoint_every
        left = self.trainer.steps - step
        return min(self.trainer.steps_per_call, left, every - step % every if self.checkpoints and every else left)

    def _call(self, count: int) -> bool:
        """Takes up to ``count`` steps in one call; returns whether it took any. Where patience or a callback ends the
        run within them, the steps up to that end are taken once more, and the later ones are discarded."""
        with self.clock.step(*self._next(), self.advance_many, count):
            began, compiled, start = time.perf_counter(), self.advance_many.seconds, self.state
            call = self.advance_many(self.engine, self.task, start, count)
            taken, entries = int(call.taken), jax.device_get(whole(call.entries))
            share = (time.perf_counter() - began) / max(taken, 1)
        spent = self.advance_many.seconds.since(compiled).named()
        noted = 0
        try:
            while noted < taken and not self.halted:
                entry: Entry = jax.tree.map(lambda leaf, number=noted: leaf[number], entries)
                self._noted(int(start.step) + noted, entry.evaluation, entry.hparams, share, spent)
                noted, spent = noted + 1, dict.fromkeys(spent, 0.0)
                self._told_callbacks(entry.hparams, entry.params)
                if self._impatient(int(start.step) + noted, int(entry.best)):
                    break
        finally:  # also after Ctrl-C the state belongs to the last line of the record
            self.state = call.state if noted == taken else self.advance_many(self.engine, self.task, start, noted).state
        self._save()
        return taken > 0

    def _noted(
        self, step: int, evaluation: Evaluation, taken: HParams, seconds: float, compiling: Mapping[str, float]
    ) -> None:
        """One line of the record, for every logger."""
        metrics = plain({**metrics_of(evaluation), **path_of(taken), "seconds": seconds, **compiling})
        self.metrics.append({"step": step, **metrics})
        for logger in self.loggers:
            logger.log(step, metrics)
        self.snapshots.keep(step, taken)

    def _told_callbacks(self, taken: HParams, params: Params) -> None:
        """Calls all callbacks; the run ends after the last of them if one answered True."""
        line = {name: value for name, value in self.metrics[-1].items() if name != "step"}
        moment = Moment(int(self.metrics[-1]["step"]), line, taken, params)
        asked = [callback(moment) for callback in self.trainer.callbacks]
        self.halted = bool(asked) and anywhere(any(map(asks_to_end, asked)))

    def _draw(self, result: Result) -> None:
        if self.loggers:
            for name, figure in figures(self.task, result):
                for logger in self.loggers:
                    keep_figure(logger, name, figure)

    def _done(self) -> bool:
        step = int(self.state.step)
        out_of_patience = self._impatient(step, int(self.state.best.step))
        return step >= self.trainer.steps or out_of_patience or bool(self.border) or self.halted

    def _impatient(self, step: int, best: int) -> bool:
        return 0 < self.trainer.patience <= step - 1 - best

    def _save(self, force: bool = False) -> None:
        step = int(self.state.step)
        if not self.checkpoints or not (force or self._due(step)) or step in self.checkpoints.steps():
            return
        with self.pace:
            for logger in self.loggers:
                logger.sync()  # a checkpoint must not be ahead of the record
            kept = {name: logger.state() for name, logger in by_name(self.loggers).items()}
            self.data = self.data or self._data()
            self.checkpoints.save(step, self.state, {"loggers": kept, "border": self.border, "data": self.data})

    def _due(self, step: int) -> bool:
        if self.border or step == self.trainer.steps:
            return True
        every = self.trainer.checkpoint_every
        return step % every == 0 if every else anywhere(self.pace.due())  # the clocks of processes differ

    def _conclude(self) -> Result:
        """Evaluates the last hyperparameters once more without moving them. Where tolerances follow the progress, it
        uses the finest ones and evaluates the best hyperparameters too."""
        with self.clock.final(*self._next(), self.advance, 1 + self.engine.adapts):
            closely = self.closely() if self.engine.adapts else None
            if closely is None:
                state, evaluation = self.attempt()
                closely = state, [evaluation]
        lines = [*self.earlier.read(), *self.metrics]
        result = concluded(self.task, self.engine, lines, whole(closely), self._told())
        return replace(result, snapshots=self.snapshots.kept)

    def _status(self) -> str:
        if self.border:
            return "stopped_at_border"
        if self.halted:
            return "stopped_by_callback"
        return "stopped_early" if int(self.state.step) < self.trainer.steps else COMPLETED

    def _told(self) -> dict[str, Any]:
        """The summary's figures on the run itself."""
        return {
            **self.sizes(),
            **({"engine_chosen_because": self.reason} if self.reason else {}),
            "status": self._status(),
            **({"stopped_because": self.border} if self.border else {}),
            **({"held_constant": self.held} if self.held else {}),
            "steps_skipped": int(self.state.skipped),
            "environment": environment(),
            **self._seconds(),
            **self._compilation().named(),
        }

    def _compilation(self) -> Seconds:
        return self.begin.seconds.add(self.advance.seconds).add(self.advance_many.seconds)

    def _compiled(self) -> float:
        return sum(self._compilation())

    def _seconds(self) -> dict[str, Any]:
        """The seconds of this process up to now, what they went into, which outer steps were traced for that, and which
        steps this process took (from, up to)."""
        split, end = self.clock.split(self.metrics), int(self.state.step)
        return {
            "seconds_total": sum(split.values()),
            "seconds_by": split,
            "seconds_sampled": [sample.step for sample in self.clock.samples],
            "seconds_of_steps": [end - len(self.metrics), end],
        }
