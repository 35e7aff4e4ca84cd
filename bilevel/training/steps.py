"""The steps of a run: the compiled outer step, the policy for failures, and the looks at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.data.rows import in_memory
from bilevel.engines.failure import LOG, act, describe, failed
from bilevel.foundation.compilation import Program
from bilevel.foundation.status import ConvergenceError
from bilevel.foundation.typing import Key, PyTree
from bilevel.loggers.base import plain
from bilevel.solvers import Solver
from bilevel.task import Task
from bilevel.training.attempt import at_border, attempted, leap
from bilevel.training.calls import in_one_call
from bilevel.training.checkpoint import Checkpoints
from bilevel.training.devices import mesh_of, on_mesh, placed, refuse_host, refuse_part, samples_of
from bilevel.training.outer_step import (
    Evaluation,
    TrainState,
    first_point,
    first_state,
    metrics_of,
    outer_step,
    point_of,
)
from bilevel.training.processes import whole
from bilevel.training.refusals import Settings, heed_influence, refuse_measures, refuse_start, refuse_unknown


class Steps:
    """The state of a run, and the programs that advance it."""

    def __init__(self, trainer: Settings, task: Task, key: Key) -> None:
        self.trainer = trainer
        refuse_start(task, key)
        self.task = task = self._spread(task, key)
        self.advance = Program(
            lambda engine, task, state: self._placed(outer_step(task, trainer.optimizer, engine, state))
        )
        self.advance_many = Program(
            lambda engine, task, state, count: self._placed(
                in_one_call(
                    task,
                    trainer.optimizer,
                    engine,
                    state,
                    count,
                    most=trainer.steps_per_call,
                    with_params=bool(trainer.callbacks),
                )
            )
        )
        self.begin = Program(lambda engine, key: self._placed(first_state(task, trainer.optimizer, engine, key)))
        self.engine, self.reason = trainer.engine, ""
        if trainer.engine.chooses:
            self.engine, self.reason = trainer.engine.choose(task, in_memory(first_point(task, key)))
        self.held = heed_influence(self.engine, task, key)
        refuse_measures(trainer, task, key)
        self.state: TrainState = self.begin(self.engine, key)
        refuse_unknown(self.state.hparams)
        self.failure: dict[str, Any] = {}  # the line of the step that ended the run
        self.border = ""  # why the run can go no further

    def _spread(self, task: Task, key: Key) -> Task:
        """The task as the devices of the trainer's mesh take it."""
        self.mesh, self.samples = mesh_of(self.trainer.mesh), 0
        refuse_part(1 if self.mesh is None else self.mesh.devices.size)
        if self.mesh is None:
            return task
        spread = on_mesh(task, self.mesh)
        batches = spread.batches(key, 0)
        refuse_host(self._solver(spread, key))
        self.samples = samples_of(batches)
        return spread

    def _solver(self, task: Task, key: Key) -> Solver:
        """The solver that does the work, chosen as in the compiled step, because data may not be in memory."""
        found: list[Solver] = []

        def look(key: Key) -> None:
            point = first_point(task, key)
            found.append(task.inner.choose(point.hparams, point.inner_batch)[0])

        jax.eval_shape(look, key)
        return found[0]

    def _placed(self, tree: PyTree) -> PyTree:
        """The arrays that a program returned, on the devices where the next step expects them."""
        return tree if self.mesh is None else placed(tree, self.mesh, self.samples)

    def attempt(self, start: TrainState | None = None) -> tuple[TrainState, Evaluation]:
        """The step, and the engine's policy where it failed; "skip" leaves the hyperparameters unchanged. A run that
        has located the border of the solvable region has not failed: it ends there, and says so."""
        start = start or self.state
        state, evaluation = attempted(self.advance, self.engine, self.task, start)
        report, number = evaluation.report, int(start.step)
        shorter = " Shorter steps did not help." if int(evaluation.halvings) else ""

        def sentence() -> str:
            if cause := leap(start):
                return f"Outer step {number}: {cause}"
            point = point_of(self.task, start.key, start.step, start.hparams)
            return f"Outer step {number}: {describe(report, self.engine, self.task, point)}{shorter}"

        if self.border or at_border(self.advance, self.engine, self.task, start, evaluation):
            self.border = self.border or sentence()
            return state._replace(hparams=state.previous), evaluation
        if failed(report) and self.engine.on_failure in ("raise", "retry"):
            self.failure = plain({"step": number, **metrics_of(evaluation)})
        act(self.engine, report, sentence)
        return state, evaluation

    def reach(self, step: int, directory: Path) -> TrainState:
        """The state before step ``step`` of the run in ``directory``. It starts at the last checkpoint before that
        step, or at the start where there is none, and takes the steps of the run again."""
        with Checkpoints(directory / "checkpoints") as checkpoints:
            kept = [number for number in checkpoints.steps() if number <= step]
            if kept:
                self.state, _ = checkpoints.restore(self.state, kept[-1])
        while int(self.state.step) < step:
            self.state, _ = self.attempt()
        return self.state

    def closely(self) -> tuple[TrainState, list[Evaluation]] | None:
        """The best iterate, where one was chosen, and the last one, both solved at the finest tolerances, because
        losses from solves with different tolerances are not comparable; and the better of them. None where a solve
        fails."""
        best, finest, looks = self.state.best, self.engine.finest, []
        state = self.state
        try:
            if int(best.step) >= 0:
                unknown = best._replace(loss=jnp.full_like(best.loss, jnp.inf))
                again = state._replace(hparams=best.hparams, previous=best.hparams, step=best.step, best=unknown)
                again, first = self.attempt(again._replace(carry=finest(state.carry)))
                state, looks = state._replace(carry=again.carry, best=again.best), [first]
            state, last = self.attempt(state._replace(carry=finest(state.carry)))
        except ConvergenceError as error:
            LOG.warning(
                "The solves at the end, at the finest tolerances, failed: %s Result and summary are loose.", error
            )
            return None
        looks.append(last)
        return None if any(failed(look.report) for look in looks) else (state, looks)

    def sizes(self) -> dict[str, Any]:
        """The facts of the run for the summary, however it ends."""
        count = lambda tree: int(sum(np.size(leaf) for leaf in jax.tree.leaves(tree)))
        if self.mesh is None:
            batch, _ = self.task.batches(self.state.key, 0)
            solver, _ = self.task.inner.choose(self.state.hparams, batch)
        else:
            solver = self._solver(self.task, whole(self.state.key))
        return {
            "task": self.task.name,
            "engine": type(self.engine).__name__,
            "solver": type(solver).__name__,
            "hyperparameters": count(self.state.hparams),
            "unknowns": count(self.state.carry.params),
        }
