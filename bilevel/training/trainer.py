"""The outer loop, for users: settings in, a result out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from bilevel.engines import Engine, Implicit
from bilevel.foundation.stated import telling
from bilevel.foundation.typing import Key
from bilevel.loggers import Console, Logger
from bilevel.task import PRECISIONS, Task
from bilevel.training.callbacks import Callback
from bilevel.training.devices import mesh_of
from bilevel.training.fit import Fit, Interrupted
from bilevel.training.processes import compile_anew, folder_of_all
from bilevel.training.result import Result
from bilevel.training.run_folder import RunFolder

WHOLE = (Integral, "a whole number")
KINDS: dict[str, tuple[type, str]] = {
    "optimizer": (optax.GradientTransformation, "an optax.GradientTransformation, as optax.adam(0.1),"),
    "engine": (Engine, "an engine, as bl.Implicit(),"),
    **dict.fromkeys(("steps", "patience", "checkpoint_every", "steps_per_call"), WHOLE),
}
NULLABLE = ("checkpoint_every",)


@dataclass(frozen=True)
class Trainer:
    """Minimises the outer loss of a task by ``optimizer`` on the hypergradients of ``engine``.

    ``steps`` outer steps; fewer if the judged loss (``stop/loss`` of the task's evaluate, else the outer loss) has not
    improved for ``patience`` steps (0: never stop early). With a directory, `fit` writes one JSON line for each step,
    and the whole state every ``checkpoint_every`` steps (None: after the first step, and then as often as saving takes
    at most a twentieth of the time) and at the end; with ``resume=True`` it goes on from there, bit for bit.
    Each of ``callbacks`` is called with a `Moment` after each outer step, when the step is recorded. A callback that
    returns True ends the run there (status "stopped_by_callback"). An exception in one ends the run and is raised.
    ``steps_per_call=K`` takes up to K steps in one call of the compiled program. It pays where a step is so short that
    the round trip to the host counts. Calls end at every checkpoint of ``checkpoint_every``, which should be K or more,
    or None. Record and patience are as with one step a call; callbacks hear of the steps of a call when it has ended.
    ``profile=True`` measures at the end how the time of a step is divided (``profile`` in the summary) and shows the
    times of tracing and compilation in the table (the record has them always).

    ``mesh={"data": N, "params": M}`` solves one inner problem on N x M devices: the samples (the leading axis of the
    batches) and hyperparameters with one entry for each sample are spread over N of them, other hyperparameters and
    unknowns over M. The results are the same as on one device, up to rounding. Raises ValueError for a solver on the
    host.

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
    checkpoint_every: int | None = None
    steps_per_call: int = 1
    mesh: Mesh | Mapping[str, int] | None = None
    profile: bool = False
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        for name, (kind, words) in KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name in NULLABLE):
                raise TypeError(f"trainer.{name}={value!r}: {words} is needed.")
        if wrong := [logger for logger in self.loggers if not isinstance(logger, Logger)]:
            raise TypeError(f"trainer.loggers: {wrong[0]!r} is no bl.loggers.Logger.")
        if wrong := [callback for callback in self.callbacks if not callable(callback)]:
            raise TypeError(f"trainer.callbacks: {wrong[0]!r} is no function of a bl.training.Moment.")
        mesh_of(self.mesh)  # raises where it is no mesh
        if self.steps < 1:
            raise ValueError(f"trainer.steps={self.steps}: an outer loop needs at least one step.")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(
                f"trainer.checkpoint_every={self.checkpoint_every}: save every 1, 2, ... steps; None: by time."
            )
        if self.steps_per_call < 1:
            raise ValueError(f"trainer.steps_per_call={self.steps_per_call}: a call takes 1, 2, ... steps.")

    def fit(
        self,
        task: Task,
        *,
        key: Key | None = None,
        directory: Path | str | RunFolder | None = None,
        resume: bool = False,
        config: Mapping[str, Any] = MappingProxyType({}),
        progress: bool = False,
    ) -> Result:
        """Runs the outer loop from ``key`` in the precision of the task; ``config`` goes to the loggers. With
        ``progress`` a terminal or a notebook shows the steps, and a table at the end.

        With a ``directory``, no other process can write there meanwhile; one that holds a run is refused
        (`FolderTaken`) without ``resume=True``.

        Raises `ConvergenceError` where a solve failed and the engine's ``on_failure`` is "raise" or an exhausted
        "retry". Ctrl-C saves the state and raises `Interrupted`, which has the result
        so far.
        """
        if not isinstance(task, Task):
            raise TypeError(f"Trainer.fit takes a bl.Task, and was given a {type(task).__name__}.")
        for logger in self.loggers:
            logger.ready()
        compile_anew()
        told = telling(task.functions, task.check)
        with jax.enable_x64(PRECISIONS[task.precision]), told, ExitStack() as stack:
            start = jax.random.key(0) if key is None else key
            if not isinstance(start, jax.Array):
                raise TypeError(f"key={start!r}: a key of JAX is needed, as jax.random.key(0).")
            if directory is not None and not isinstance(directory, RunFolder):
                place = directory
                directory = stack.enter_context(folder_of_all(lambda: RunFolder(place, resume)))
            shown = replace(self, loggers=[*self.loggers, Console()]) if progress else self
            fit = Fit(shown, task, start, None if directory is None else directory.path, stack)
            return fit.run(resume, config)


__all__ = ["Interrupted", "Result", "Trainer"]
