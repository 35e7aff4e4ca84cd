"""The outer loop: it runs the compiled step, acts on failures, and keeps the record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optax

from bilevel.checkpoint import Checkpoints
from bilevel.engines import Engine, Implicit
from bilevel.failure import describe, escalations, failed
from bilevel.loggers import JsonLines, Logger, Run, read_json_lines
from bilevel.outer_step import Best, Evaluation, TrainState, first_state, metrics_of, outer_step
from bilevel.program import Program
from bilevel.status import ConvergenceError
from bilevel.task import PRECISIONS, Task
from bilevel.typing import Counts, HParams, Key, Params


@dataclass(frozen=True)
class Result:
    """What a fit found. ``hparams`` and ``params`` are those of the best iterate (lowest ``stop/loss`` where the task
    has a second hold-out, else lowest outer loss); ``metrics`` has a dict a step."""

    hparams: HParams
    params: Params
    last_hparams: HParams
    last_params: Params
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    task: Task

    def arrays(self) -> dict[str, np.ndarray]:
        """Hyperparameters and parameters, best and last, by name: what ``result.npz`` holds."""
        trees = {"hparams": self.hparams, "params": self.params, "last_hparams": self.last_hparams, "last_params": self.last_params}
        return {
            name + jax.tree_util.keystr(path): np.asarray(leaf)
            for name, tree in trees.items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a fit, after the state was saved."""


@dataclass(frozen=True)
class Trainer:
    """Minimises the outer loss of a task by ``optimizer`` on the hypergradients of ``engine``.

    ``steps`` outer steps, fewer if the judged loss (``stop/loss`` of the task's evaluate, else the outer loss) has not
    improved for ``patience`` steps (0: never stop early). With a directory, a JSON line a step is written, and the
    whole state every ``checkpoint_every`` steps; `fit` with ``resume=True`` goes on from there, bit for bit.

    >>> import jax, jax.numpy as jnp, optax, bilevel as bl
    >>> task = bl.Task(
    ...     inner=bl.InnerProblem(loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
    ...                           init=lambda key, h: jnp.zeros(())),
    ...     outer_loss=lambda w, h, batch: 0.5 * (w - batch) ** 2, init_hparams=lambda key: jnp.zeros(()),
    ...     batches=bl.full_batch(4.0, 1.0))
    >>> result = bl.Trainer(optimizer=optax.adam(0.1), steps=100).fit(task, key=jax.random.key(0))
    >>> round(float(jnp.exp(result.hparams)), 1)
    3.0
    """

    optimizer: optax.GradientTransformation = field(default_factory=lambda: optax.adam(0.1))
    engine: Engine = Implicit()
    steps: int = 100
    patience: int = 0
    loggers: Sequence[Logger] = ()
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"trainer.steps={self.steps}: an outer loop needs at least one step.")

    def fit(
        self,
        task: Task,
        *,
        key: Key | None = None,
        directory: Path | str | None = None,
        resume: bool = False,
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> Result:
        """Runs the outer loop from ``key``; with ``directory`` it keeps a record there, from which ``resume`` goes on.

        Raises `ConvergenceError` where a solve failed and the engine's ``on_failure`` is "raise" or an exhausted
        "retry". Ctrl-C saves the state and raises `Interrupted`.
        """
        with jax.enable_x64(PRECISIONS[task.precision]), ExitStack() as stack:
            key = jax.random.key(0) if key is None else key
            return _Fit(self, task, key, Path(directory) if directory else None, resume, config, stack).run()


class _Fit:
    """One run of the outer loop: what is open and what has been seen so far."""

    def __init__(
        self, trainer: Trainer, task: Task, key: Key, directory: Path | None, resume: bool, config: Mapping, stack: ExitStack
    ):
        self.trainer, self.task, self.directory = trainer, task, directory
        self.program = Program(lambda engine, solver, state: outer_step(task, trainer.optimizer, engine, solver, state))
        self.began, self.seconds, self.counts = time.perf_counter(), [], Counts()
        self.metrics: list[dict[str, Any]] = []
        initial = Program(lambda key: first_state(task, trainer.optimizer, trainer.engine, key))
        self.state: TrainState = initial(key)
        self.checkpoints = stack.enter_context(Checkpoints(directory / "checkpoints")) if directory else None
        meta: dict[str, Any] = {}
        if resume and self.checkpoints is not None and self.checkpoints.latest() is not None:
            self.state, meta = self.checkpoints.restore(self.state)
        self.loggers = [*([JsonLines()] if directory else []), *trainer.loggers]
        steps = int(self.state.step)
        if resume and directory:
            self.metrics = read_json_lines(directory / JsonLines.filename)[:steps]
        run = Run(directory, config, trainer.steps, task.name, resume)
        for number, logger in enumerate(self.loggers):
            logger.start(run, steps, meta.get("loggers", {}).get(str(number), {}))

    def run(self) -> Result:
        status = "failed"
        result = None
        try:
            stopped = False
            while int(self.state.step) < self.trainer.steps and not stopped:
                self._step()
                stopped = self._out_of_patience()
            status = "stopped_early" if stopped else "completed"
            result = self._conclude(status)
            return result
        except KeyboardInterrupt as interrupt:
            status = "interrupted"
            self._save(force=True)
            raise Interrupted(f"interrupted after {int(self.state.step)} outer steps") from interrupt
        finally:
            summary = result.summary if result else {**self._summary(status), "steps": int(self.state.step)}
            for logger in self.loggers:
                logger.finish(summary)

    def _step(self) -> None:
        began = time.perf_counter()
        step = int(self.state.step)
        state, evaluation = self._attempt()
        metrics = {**metrics_of(evaluation), "seconds": 0.0}
        self.state = state
        metrics["seconds"] = time.perf_counter() - began
        self.seconds.append(metrics["seconds"])
        self.metrics.append({"step": step, **metrics})
        for logger in self.loggers:
            logger.log(step, metrics)
        self._save()

    def _attempt(self) -> tuple[TrainState, Evaluation]:
        engine, solver = self.trainer.engine, self.task.inner.solver
        state, evaluation = self.program(engine, solver, self.state)
        if not failed(evaluation.report):
            return state, evaluation
        if engine.on_failure == "retry":
            for _, harder, longer in escalations(engine, solver):
                state, evaluation = self.program(harder, longer, self.state)
                if not failed(evaluation.report):
                    return state, evaluation
        if engine.on_failure in ("raise", "retry"):
            raise ConvergenceError(f"Outer step {int(self.state.step)}: {describe(evaluation.report)}", evaluation.report)
        if engine.on_failure == "warn":
            jax.debug.print  # noqa: B018
        return state, evaluation

    def _out_of_patience(self) -> bool:
        waited = int(self.state.step) - 1 - int(self.state.best.step)
        return 0 < self.trainer.patience <= waited

    def _save(self, force: bool = False) -> None:
        if self.checkpoints is None:
            return
        step = int(self.state.step)
        due = step % self.trainer.checkpoint_every == 0 or step >= self.trainer.steps or force
        if due and self.checkpoints.latest() != step:
            states = {str(number): logger.state() for number, logger in enumerate(self.loggers)}
            self.checkpoints.save(step, self.state, {"loggers": states})

    def _conclude(self, status: str) -> Result:
        """Evaluates the last hyperparameters once more, without an update."""
        last_hparams = self.state.hparams
        state, evaluation = self._attempt()
        best: Best = state.best
        summary = {
            **self._summary(status),
            "final_outer_loss": float(evaluation.value),
            "best_outer_loss": min(float(evaluation.value), *(line["outer/loss"] for line in self.metrics)),
        }
        return Result(best.hparams, best.params, last_hparams, evaluation.report.params, self.metrics, summary, self.task)

    def _summary(self, status: str) -> dict[str, Any]:
        return {"task": self.task.name, "engine": type(self.trainer.engine).__name__, "status": status}


__all__ = ["Interrupted", "Result", "Trainer"]
_ = replace
