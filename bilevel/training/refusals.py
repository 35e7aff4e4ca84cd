"""The checks of a task and a trainer before anything is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import optax
from jax.sharding import Mesh

from bilevel.engines import Engine
from bilevel.engines.failure import leaves_where
from bilevel.engines.influence import Influence, influence
from bilevel.foundation import trees
from bilevel.foundation.stated import StatementError, checked_metrics, checked_tree, described
from bilevel.foundation.typing import HParams, Key
from bilevel.loggers import Logger
from bilevel.task import Task
from bilevel.training.callbacks import Callback
from bilevel.training.judgement import judge_of
from bilevel.training.outer_step import first_point
from bilevel.training.result import STANDARD


class Settings(Protocol):
    """The settings of a `Trainer` that a fit reads."""

    @property
    def optimizer(self) -> optax.GradientTransformation: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def steps(self) -> int: ...
    @property
    def steps_per_call(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def loggers(self) -> Sequence[Logger]: ...
    @property
    def checkpoint_every(self) -> int | None: ...
    @property
    def mesh(self) -> Mesh | Mapping[str, int] | None: ...
    @property
    def profile(self) -> bool: ...
    @property
    def callbacks(self) -> Sequence[Callback]: ...


def refuse_start(task: Task, key: Key) -> None:
    """Refuses a start without numbers, and a projection whose results are no hyperparameters. Without the check the
    error would come from the function that receives them, and not name the cause."""

    def start(key: Key) -> tuple[HParams, HParams]:
        hparams = checked_tree("init_hparams", task.init_hparams, task.init_hparams(key))
        checked_tree("init", task.inner.init, task.inner.init(key, hparams))
        return hparams, task.feasible(hparams)

    hparams, projected = jax.eval_shape(start, key)
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (hparams, projected)]
    if shapes[0] != shapes[1]:
        raise StatementError(
            f"The feasible {described(task.feasible)} returns the shapes {shapes[1]} for hyperparameters of the shapes "
            f"{shapes[0]}: return their projection."
        )


def refuse_unknown(hparams: HParams) -> None:
    """Refuses hyperparameters to begin with that are no finite numbers."""
    if wrong := leaves_where(trees.not_finite(hparams)):
        raise ValueError(f"{', '.join(wrong)} of init_hparams(key) is NaN or infinite: begin at finite numbers.")


def heed_influence(engine: Engine, task: Task, key: Key) -> list[str]:
    """Warns, before anything is compiled, of hyperparameters that cannot reach the outer loss; returns those that the
    task holds constant. Raises ValueError where none can, because such a run would end where it began."""
    found: list[Influence] = []

    def look(key: Key) -> None:
        found.append(influence(engine, task, first_point(task, key)))

    jax.eval_shape(look, key)
    if found[0].without_path and not any(found[0].reached.values()):
        raise ValueError(found[0].sentence())
    if found[0].without_path:
        warnings.warn(found[0].sentence(), stacklevel=4)
    return found[0].held


def refuse_measures(trainer: Settings, task: Task, key: Key) -> None:
    """Refuses an ``evaluate`` that gives no numbers by name, and patience where losses are on different batches:
    patience counts steps without a better loss, and such losses are not comparable."""

    def measured(key: Key) -> dict[str, Any]:
        point = first_point(task, key)
        params = task.inner.primal(task.inner.cold_start(point.key, point.hparams, point.inner_batch))
        return checked_metrics(task.evaluate, task.evaluate(params, point.hparams))

    found = jax.eval_shape(measured, key)
    if taken := [name for name in found if name == "step" or name.startswith(STANDARD)]:
        raise StatementError(
            f"The evaluate {described(task.evaluate)} returns an entry named {taken[0]!r}, which the record has of its "
            "own: give it another name."
        )
    if trainer.patience and not judge_of(task, key, found):
        raise ValueError(
            f"trainer.patience={trainer.patience} cannot tell a better step, because each step has an outer batch of "
            "its own: measure stop/loss on a second hold-out in task.evaluate, or set patience=0."
        )
