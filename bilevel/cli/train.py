"""``command=train``: objects from settings, the fit, and the files of its directory."""

from __future__ import annotations

import contextlib
import errno
import importlib
import inspect
import os
import shlex
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from bilevel.cli import distributed
from bilevel.cli.distributed import join
from bilevel.cli.ending import best_loss, finished, short, tell_result
from bilevel.cli.interrupts import last_words
from bilevel.cli.record import SettingsRecord
from bilevel.cli.search import pruning
from bilevel.cli.sentences import SettingsError, no_setting, unexpected
from bilevel.cli.settings import merged
from bilevel.cli.sweep import AGAIN, goes_on, waits
from bilevel.engines import Engine
from bilevel.foundation.status import ConvergenceError
from bilevel.foundation.typing import HParams, Key
from bilevel.loggers import Console
from bilevel.report import Page
from bilevel.task import PRECISIONS, Task
from bilevel.training.checkpoint import Misfit
from bilevel.training.conclusion import FAILED
from bilevel.training.fit import Interrupted
from bilevel.training.processes import ProcessLost, folder_of_all, leads, loss
from bilevel.training.run_folder import CHECKPOINTS, FolderHeld, RunFolder, free_folder
from bilevel.training.samplers import beside
from bilevel.training.trainer import Trainer

BETWEEN_LOOKS = 0.5  # seconds between two looks at a folder in which another process is writing


def train(config: DictConfig) -> float:
    """Runs the outer loop; returns the best outer loss, which is what Hydra's sweepers minimise."""
    join(config, in_sweep=HydraConfig.get().mode == RunMode.MULTIRUN)
    config, claim = entered(config)
    resumed = config.resume is not None
    with claim as folder:
        if resumed and (done := finished(folder.path, config)):
            if leads():
                print(short(folder.path))
                print(f"{short(folder.path)} is already finished: {done}", file=sys.stderr, flush=True)
            return best_loss(folder.path)
        use_compilation_cache(config.compilation_cache)
        task, trainer = build(config)
        trainer = replace(trainer, loggers=[SettingsRecord(config), *trainer.loggers])
        again = f"`bilevel resume={shlex.quote(short(folder.path))}` goes on"
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            again = AGAIN
        lost = f"{loss()}; {again} from the last checkpoint, with any number of processes."
        if distributed.several():
            distributed.last_words(lost)
        last_words(f"{again} from the last checkpoint.")
        settings: Any = OmegaConf.to_container(config, resolve=True)
        key = jax.random.key(config.seed)
        try:
            result = trainer.fit(task, key=key, directory=folder, resume=resumed, config=settings)
        except Interrupted as interrupt:
            if leads():
                print(short(folder.path))
                tell_result(interrupt.result, folder.path, settings)
            raise Interrupted(f"{interrupt}; {again}.", interrupt.result) from interrupt
        except ProcessLost as error:
            raise ProcessLost(lost) from error
        except Misfit as error:
            raise SettingsError(str(error)) from error
        except Exception as error:
            if not (what := of_storage(error)):
                raise
            raise OSError(f"{short(folder.path)}: {what}; what was saved before is kept, and {again}.") from error
    if leads():
        print(short(folder.path))
        tell_result(result, folder.path, settings)
    if result.summary["status"] == FAILED:
        raise ConvergenceError(str(result.summary["failed_because"]))
    return float(result.summary["best_outer_loss"])


def of_storage(error: Exception) -> str:
    """The operating system's message for a failed write; "" for another error.

    The storage of checkpoints raises errors of its own for a full disk.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error).rstrip(".")
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else ""


def entered(config: DictConfig) -> tuple[DictConfig, RunFolder]:
    """The settings of the run and its folder, claimed for it. A job of a sweep goes on with what is there, and waits
    for the end of another process that is writing the same run, so that nothing is computed twice."""
    told = False
    while True:
        going = goes_on(config)
        try:
            return going, claimed(going.resume is not None)
        except FolderHeld as held:
            if not waits(config):
                raise SettingsError(str(held)) from held
            if not told:
                print(f"bilevel: {str(held).partition(';')[0]}; waiting for its end.", file=sys.stderr, flush=True)
            told = True
            time.sleep(BETWEEN_LOOKS)


def claimed(resumed: bool) -> RunFolder:
    """The folder of the run, claimed for it: the folder of the command line, else the first free one. `FolderHeld`
    where another process is writing there; another refusal is a `SettingsError`."""
    hydra = HydraConfig.get()
    wanted = Path(hydra.runtime.output_dir)
    asked = any(one.startswith(("hydra.run.dir=", "hydra.sweep.")) for one in hydra.overrides.hydra)
    named = resumed or asked or hydra.mode == RunMode.MULTIRUN
    try:
        folder = folder_of_all(lambda: RunFolder(wanted, resume=resumed) if named else free_folder(wanted))
    except FolderHeld:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if folder.path != wanted:
        with contextlib.suppress(OSError):  # Hydra made it, in a later second than that of the first process
            wanted.rmdir()
    return folder


def build(config: DictConfig) -> tuple[Task, Trainer]:
    """Task and trainer from their settings; nothing is compiled here. Their refusals become a `SettingsError`."""
    try:
        return built(config)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def built(config: DictConfig) -> tuple[Task, Trainer]:
    with jax.enable_x64(PRECISIONS.get(config.task.get("precision", "float64"), True)):
        task = stated(config) or made(with_seed(config), "task", Task)
        task = task if task.name != Task.name else replace(task, name=name_of(config))
        if config.get("fork") and not has_checkpoints(config.get("resume") or config.get("run")):
            task = replace(task, init_hparams=from_run(Path(config.fork), task))
        if config.get("solver"):
            task = task.with_solver(instantiate(config.solver))
        if config.get("baseline"):
            budget = (config.baseline, config.trainer.steps, config.baseline_width)
            task = beside(task, *budget, jax.random.key(config.seed), config.seed)
        loggers = [
            *([Console()] if config.progress else []),
            *([Page()] if config.report else []),  # written before W&B ends, because that sends the report
            *([instantiate(grouped(config).logger)] if config.logger else []),
        ]
        parts = {
            "optimizer": made(config, "optimizer", optax.GradientTransformation),
            "engine": made(config, "engine", Engine),
            "loggers": loggers,
        }
        make = instantiate(config.trainer, _partial_=True, _convert_="all")
        try:
            trainer = make(**parts)
        except TypeError as error:
            if word := unexpected(error, config.trainer._target_):
                raise SettingsError(no_setting("trainer", word)) from error
            raise
    return task, replace(trainer, callbacks=[*trainer.callbacks, *pruning(config)])


def grouped(config: DictConfig) -> DictConfig:
    """The settings with the name of the sweep as the group of its runs, where the logger has groups and none is set."""
    if HydraConfig.get().mode != RunMode.MULTIRUN or "group" not in config.logger or config.logger.group:
        return config
    return merged(config, {"logger": {"group": "-".join(Path(HydraConfig.get().sweep.dir).parts[-2:])}})


def stated(config: DictConfig) -> Task | None:
    """A task that is itself an attribute of a module, without a function; None where the target is something else."""
    task = attribute(config.task.get("_target_"))
    if not isinstance(task, Task):
        return None
    if given := [name for name in config.task if name != "_target_"]:
        raise SettingsError(
            f"task.{given[0]}: {config.task._target_} is a task and takes no settings; make it a function that returns "
            "one."
        )
    return task


def attribute(target: Any) -> Any:
    """The object with this dotted name; None where it cannot be imported, and `made` reports the reason."""
    module, _, name = str(target).rpartition(".")
    with contextlib.suppress(Exception):
        return getattr(importlib.import_module(module), name)


def made(config: DictConfig, group: str, kind: type) -> Any:
    """The object that the ``_target_`` of a group returns; refused where it is of another kind than the group's."""
    thing = instantiate(config[group], _convert_="all")
    if not isinstance(thing, kind):
        target = config[group].get("_target_")
        raise SettingsError(
            f"{group}._target_={target} gives a {type(thing).__name__}; {group} needs a {kind.__name__}."
        )
    return thing


def with_seed(config: DictConfig) -> DictConfig:
    """Gives the run's seed to a task that has an argument ``seed`` and no setting for it, because otherwise the runs of
    a sweep over seeds would be the same."""
    try:
        arguments = inspect.signature(attribute(config.task.get("_target_"))).parameters
    except (TypeError, ValueError):  # `made` reports the error
        return config
    if "seed" not in arguments or "seed" in config.task:
        return config
    with open_dict(config):
        return merged(config, {"task": {"seed": config.seed}})


def from_run(directory: Path, task: Task) -> Callable[[Key], HParams]:
    """The start of a fork: the hyperparameters that the run in ``directory`` found."""
    path = directory / "result.npz"
    if not path.is_file():
        raise SettingsError(f"fork={short(directory)}: it has no result.npz; let that run end, or interrupt it, first.")
    leaves, structure = jax.tree_util.tree_flatten_with_path(task.init_hparams(jax.random.key(0)))
    try:
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in arrays.files if name.startswith("hparams")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SettingsError(
            f"fork={short(directory)}: its result.npz is damaged ({error}); resume that one."
        ) from error
    wanted = {f"hparams{jax.tree_util.keystr(at)}": np.shape(leaf) for at, leaf in leaves}
    if wanted != {name: array.shape for name, array in found.items()}:
        raise SettingsError(f"fork={short(directory)}: its hyperparameters are not of the shapes that this task has.")
    hparams = [jnp.asarray(found[f"hparams{jax.tree_util.keystr(at)}"], jnp.result_type(leaf)) for at, leaf in leaves]
    return lambda key: jax.tree.unflatten(structure, hparams)


def has_checkpoints(directory: str | None) -> bool:
    """Whether a run goes on from a checkpoint. A fork then no longer needs the run that it was forked from."""
    place = Path(directory or ".") / CHECKPOINTS
    return directory is not None and place.is_dir() and any(place.iterdir())


def name_of(config: DictConfig) -> str:
    """The name of a task that has none: the name of its settings, else of its function."""
    choice = HydraConfig.get().runtime.choices.get("task", "own")
    return config.task._target_.rpartition(".")[2] if choice == "own" else choice


def use_compilation_cache(folder: str | None) -> None:
    """Keeps compiled programs between runs, so that a second run of the same settings starts at once. A folder that
    cannot be written to is a warning only, because compiling again costs nothing but time."""
    if folder:
        try:
            os.makedirs(os.path.expanduser(folder), exist_ok=True)
        except OSError as error:
            warnings.warn(f"compilation_cache={folder}: nothing is kept there ({error.strerror}).", stacklevel=2)
            return
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
