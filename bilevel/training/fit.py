"""One run of the outer loop: the compiled step, what follows from failures, the record and the checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.engines import Engine
from bilevel.engines.failure import LOG, describe, escalations, failed
from bilevel.foundation.compilation import Program
from bilevel.foundation.status import ConvergenceError
from bilevel.foundation.typing import Key
from bilevel.loggers import JsonLines, Logger, Run, read_json_lines
from bilevel.loggers.base import plain
from bilevel.task import Task
from bilevel.training.checkpoint import Checkpoints
from bilevel.training.figures import figures
from bilevel.training.outer_step import Best, Evaluation, TrainState, first_point, first_state, metrics_of, outer_step
from bilevel.training.result import Result, own, summarize


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a fit, after the state was saved."""


class Settings(Protocol):
    """What a fit reads of the `Trainer` that started it."""

    @property
    def optimizer(self) -> optax.GradientTransformation: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def steps(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def loggers(self) -> Sequence[Logger]: ...
    @property
    def checkpoint_every(self) -> int: ...


class Fit:
    """A run in progress: the state, the programs that advance it, and what is open."""

    def __init__(self, trainer: Settings, task: Task, key: Key, directory: Path | None, stack: ExitStack):
        self.trainer, self.task, self.directory = trainer, task, directory
        self.began = time.perf_counter()
        self.advance = Program(lambda engine, solver, state: outer_step(task, trainer.optimizer, engine, solver, state))
        self.begin = Program(lambda engine, key: first_state(task, trainer.optimizer, engine, key))
        self.engine, self.reason = trainer.engine, ""
        if trainer.engine.chooses:
            self.engine, self.reason = trainer.engine.choose(task.levels, first_point(task, key))
        self.state: TrainState = self.begin(self.engine, key)
        self.metrics: list[dict[str, Any]] = []
        self.failure: dict[str, Any] = {}  # the line of the step that ended the run
        self.checkpoints = stack.enter_context(Checkpoints(directory / "checkpoints")) if directory else None
        self.loggers = [*([JsonLines()] if directory else []), *trainer.loggers]

    def run(self, resume: bool, config: Mapping[str, Any]) -> Result:
        """To the last step, or to where it stops early; the loggers are closed in any case."""
        self._open(resume, config)
        summary: dict[str, Any] = {}
        try:
            while int(self.state.step) < self.trainer.steps and not self._out_of_patience():
                self._step()
            result = self._conclude()
            self._draw(result)
            summary = result.summary
            return result
        except KeyboardInterrupt as interrupt:
            summary = {"status": "interrupted"}
            self._save(force=True)
            raise Interrupted(f"interrupted after {int(self.state.step)} outer steps") from interrupt
        finally:
            for logger in self.loggers:
                logger.finish(summary or {"status": "failed", **self._sizes(), "failure": self.failure})

    def _open(self, resume: bool, config: Mapping[str, Any]) -> None:
        kept: dict[str, Any] = {}
        if resume and self.checkpoints and self.directory and self.checkpoints.latest() is not None:
            self.state, meta = self.checkpoints.restore(self.state)
            self.metrics = read_json_lines(self.directory / JsonLines.filename)[: int(self.state.step)]
            kept = meta["loggers"]
        run = Run(self.directory, config, self.trainer.steps, self.task.name, resume)
        for number, logger in enumerate(self.loggers):
            logger.start(run, int(self.state.step), kept.get(str(number), {}))

    def _step(self) -> None:
        began, step = time.perf_counter(), int(self.state.step)
        compiled = self.advance.seconds
        state, evaluation = self._attempt()
        metrics = plain(
            {
                **metrics_of(evaluation),
                "seconds": time.perf_counter() - began,
                **self.advance.seconds.since(compiled).named(),
            }
        )
        self.metrics.append({"step": step, **metrics})
        for logger in self.loggers:
            logger.log(step, metrics)
        self.state = state  # only now: Ctrl-C at any moment leaves no step without its line
        self._save()

    def _draw(self, result: Result) -> None:
        if self.loggers:
            for name, figure in figures(self.task, result):
                for logger in self.loggers:
                    logger.figure(name, figure)

    def _attempt(self, start: TrainState | None = None) -> tuple[TrainState, Evaluation]:
        """The step, with the engine's policy where a solve failed; "skip" leaves the hyperparameters as they were."""
        engine, solver, start = self.engine, self.task.inner.solver, start or self.state
        state, evaluation = self.advance(engine, solver, start)
        if failed(evaluation.report) and engine.on_failure == "retry":
            spent = evaluation.report.counts
            for number, (name, harder, longer) in enumerate(escalations(engine, solver), start=1):
                state, evaluation = self.advance(harder, longer, start)
                spent = spent.add(evaluation.report.counts)
                report = replace(evaluation.report, retries=jnp.int32(number), counts=spent)
                evaluation = evaluation._replace(report=report)
                LOG.warning("Outer step %d, retry %d (%s): %s", int(self.state.step), number, name, report.status.name)
                if not failed(report):
                    break
        if failed(evaluation.report):
            message = f"Outer step {int(self.state.step)}: {describe(evaluation.report, engine, solver)}"
            if engine.on_failure in ("raise", "retry"):
                self.failure = plain({"step": int(self.state.step), **metrics_of(evaluation)})
                raise ConvergenceError(message, evaluation.report)
            if engine.on_failure == "warn":
                warnings.warn(message, stacklevel=2)
        return state, evaluation

    def _sizes(self) -> dict[str, Any]:
        """What was run, for the summary of any end."""
        count = lambda tree: int(sum(np.size(leaf) for leaf in jax.tree.leaves(tree)))  # noqa: E731
        batch, _ = self.task.batches(self.state.key, 0)
        solver, _ = self.task.inner.choose(self.state.hparams, batch)
        return {
            "task": self.task.name,
            "engine": type(self.engine).__name__,
            "solver": type(solver).__name__,
            "hyperparameters": count(self.state.hparams),
            "unknowns": count(self.state.carry.params),
        }

    def reach(self, step: int, directory: Path) -> TrainState:
        """The state before step ``step`` of the run in ``directory``: from the last checkpoint up to there (from the
        start, where none is kept) by the steps between, which are those of the run."""
        with Checkpoints(directory / "checkpoints") as checkpoints:
            kept = [number for number in checkpoints.steps() if number <= step]
            if kept:
                self.state, _ = checkpoints.restore(self.state, kept[-1])
        while int(self.state.step) < step:
            self.state, _ = self._attempt()
        return self.state

    def _out_of_patience(self) -> bool:
        waited = int(self.state.step) - 1 - int(self.state.best.step)
        return 0 < self.trainer.patience <= waited

    def _save(self, force: bool = False) -> None:
        step = int(self.state.step)
        due = force or step % self.trainer.checkpoint_every == 0 or step == self.trainer.steps
        if self.checkpoints and due and step not in self.checkpoints.steps():
            kept = {str(number): logger.state() for number, logger in enumerate(self.loggers)}
            self.checkpoints.save(step, self.state, {"loggers": kept})

    def _closely(self) -> tuple[Best, list[Evaluation]] | None:
        """The best and the last iterate at the finest tolerances, and the better of them; None where that fails. The
        losses of the steps are of solutions more or less loose, and do not say which is best."""
        best, finest = self.state.best, self.engine.finest
        unknown = best._replace(loss=jnp.full_like(best.loss, jnp.inf))
        again = self.state._replace(hparams=best.hparams, step=best.step, best=unknown)
        try:
            state, first = self._attempt(again._replace(carry=finest(self.state.carry)))
            state, last = self._attempt(self.state._replace(carry=finest(state.carry), best=state.best))
        except ConvergenceError as error:
            LOG.warning(
                "The solves at the end, at the finest tolerances, failed: %s Result and summary are loose.", error
            )
            return None
        return None if failed(first.report) or failed(last.report) else (state.best, [first, last])

    def _conclude(self) -> Result:
        """Looks at the last hyperparameters once more, without moving them; where tolerances follow the progress, as
        closely as they allow, and at the best ones too."""
        stopped_early = int(self.state.step) < self.trainer.steps
        closely = self._closely() if self.engine.adapts and int(self.state.best.step) >= 0 else None
        if closely is None:
            state, evaluation = self._attempt()
            closely = state.best, [evaluation]
        best, looks = closely
        summary = {
            **self._sizes(),
            **({"engine_chosen_because": self.reason} if self.reason else {}),
            "status": "stopped_early" if stopped_early else "completed",
            **summarize(self.metrics, [plain(metrics_of(look)) for look in looks], int(best.step)),
            **own(self.task.baselines(), ""),
            "seconds_total": time.perf_counter() - self.began,
            **self.begin.seconds.add(self.advance.seconds).named(),
            "steps_skipped": int(self.state.skipped),
        }
        return Result(
            best.hparams, best.params, self.state.hparams, looks[-1].report.params, self.metrics, plain(summary)
        )
