"""``command=train``: settings to objects, the fit, and what it leaves in its directory."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bilevel.cli.sentences import SettingsError
from bilevel.engines import Engine
from bilevel.loggers import Console
from bilevel.loggers.json_lines import write_whole
from bilevel.task import PRECISIONS, Task
from bilevel.training.fit import Interrupted
from bilevel.training.result import Result
from bilevel.training.trainer import Trainer


def train(config: DictConfig) -> float:
    """Runs the outer loop; returns the best outer loss, which is what Hydra's sweepers minimise."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    use_compilation_cache(config.compilation_cache)
    task, trainer = build(config)
    resumed = config.resume is not None
    if resumed:
        record_settings(config, directory)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    try:
        result = trainer.fit(
            task, key=jax.random.key(config.seed), directory=directory, resume=resumed, config=settings
        )
    except Interrupted as interrupt:
        raise Interrupted(f"{interrupt}; `bilevel resume={short(directory)}` goes on.") from interrupt
    save_arrays(directory / "result.npz", result)
    print(short(directory))
    return float(result.summary["best_outer_loss"])


def build(config: DictConfig) -> tuple[Task, Trainer]:
    """Task and trainer from their settings; nothing is compiled here."""
    with jax.enable_x64(PRECISIONS.get(config.task.get("precision", "float64"), True)):
        task = made(config, "task", Task)
        task = task if task.name != Task.name else replace(task, name=name_of(config))
        if config.get("solver"):
            task = replace(task, inner=task.inner.with_solver(instantiate(config.solver)))
        loggers = [*([Console()] if config.progress else []), *([instantiate(config.logger)] if config.logger else [])]
        trainer = instantiate(config.trainer, _partial_=True, _convert_="all")(
            optimizer=made(config, "optimizer", optax.GradientTransformation),
            engine=made(config, "engine", Engine),
            loggers=loggers,
        )
    return task, trainer


def made(config: DictConfig, group: str, kind: type) -> Any:
    """What the ``_target_`` of a group returns, if it is of the kind that the group is for."""
    thing = instantiate(config[group], _convert_="all")
    if not isinstance(thing, kind):
        target = config[group].get("_target_")
        raise SettingsError(
            f"{group}._target_={target} gives a {type(thing).__name__}; {group} needs a {kind.__name__}."
        )
    return thing


def name_of(config: DictConfig) -> str:
    """What to call a task that has no name of its own: as its settings are called, else as its function."""
    choice = HydraConfig.get().runtime.choices.get("task", "own")
    return config.task._target_.rpartition(".")[2] if choice == "own" else choice


def use_compilation_cache(folder: str | None) -> None:
    """Keeps compiled programs between runs: a second run of the same settings starts at once."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def record_settings(config: DictConfig, directory: Path) -> None:
    """Settings that a resumed run changed (trainer.steps=...) hold from now on."""
    kept = OmegaConf.merge(config, {"resume": None})
    write_whole(directory / ".hydra" / "config.yaml", OmegaConf.to_yaml(kept))


def save_arrays(path: Path, result: Result) -> None:
    """Hyperparameters and parameters, best and last, as one .npz; in place only when it is whole."""
    beside = path.with_name("result.part.npz")
    np.savez(beside, **result.arrays())  # pyright: ignore[reportArgumentType]
    os.replace(beside, path)


def short(directory: Path) -> str:
    """The directory as one types it: relative to where the user is, if it lies below."""
    with contextlib.suppress(ValueError):
        return str(directory.relative_to(Path.cwd()))
    return str(directory)
