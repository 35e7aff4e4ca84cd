"""Checks of the composed settings, before anything is computed: a value keeps the kind of its default."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from bilevel.cli.arguments import LOGGER
from bilevel.cli.choices import configs, options
from bilevel.cli.distributed import check_distributed
from bilevel.cli.sentences import SettingsError, nearest
from bilevel.cli.shipped import check_shipped

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
PROBLEM = ("task", "data", "solver", "seed")  # what a resumed run may not change
NULLABLE = ("compilation_cache", "trainer.checkpoint_every")  # settings that may be null although their default is not
OF_KIND = {"trainer.checkpoint_every": 10}  # settings whose default is null, with a value of the kind that they have
POSITIVE = (
    "optimizer.learning_rate",
    "trainer.steps",
    "trainer.checkpoint_every",
    "trainer.steps_per_call",
    "solver.tol",
    "solver.max_steps",
    "distributed.timeout",
    "distributed.heartbeat",
)


def check_settings(config: DictConfig) -> None:
    """Raises `SettingsError` for values of another kind than their default, and a data folder that is not there."""
    hydra = HydraConfig.get()
    given = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    chosen = [one for one in given if one.key_or_group in hydra.runtime.choices]
    defaults = compose(hydra.job.config_name, [str(one.input_line) for one in chosen], return_hydra_config=False)
    for one in given:
        if one not in chosen and not one.is_delete() and not one.is_add():
            key = one.key_or_group
            default = OF_KIND.get(key) or OmegaConf.select(defaults, key, throw_on_missing=False)
            value = OmegaConf.select(config, key)
            if value is not None or key not in NULLABLE:
                check_kind(key, value, default)
    for key in POSITIVE:
        value = OmegaConf.select(config, key)
        if isinstance(value, int | float) and not value > 0:  # a schedule is checked by its own settings
            raise SettingsError(f"{key}={value}: it must be positive.")
    check_distributed(config)
    if config.get("resume"):
        recorded = OmegaConf.load(Path(config.resume) / ".hydra" / "config.yaml")
        check_unchanged(config, cast(DictConfig, recorded))
    if config.command == "doctor" and config.get("replay") is None:
        return  # reads the record alone, so the data need not be there
    root = config.data.root
    if root and not Path(root).expanduser().is_dir():
        raise SettingsError(f"data.root={root}: there is no such folder; correct data.root=DIR or BILEVEL_DATA.")
    check_shipped(reduced(config) if config.command == "check" else config)


def with_logger(config: DictConfig) -> DictConfig:
    """The settings of a run that goes on, with the logger that was chosen for the rest of it."""
    name = config.get(LOGGER)
    if name is None:
        return config
    if name not in options("logger"):
        raise SettingsError(
            f"logger={name}: there is no such logger{nearest(str(name), options('logger'))}; choose one of "
            f"{', '.join(options('logger'))}."
        )
    chosen = OmegaConf.load(configs() / "logger" / f"{name}.yaml")
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in (LOGGER, "logger")])
    with open_dict(kept):
        return cast(DictConfig, OmegaConf.merge(kept, chosen))


def reduced(config: DictConfig) -> DictConfig:
    """The settings of the small instance for ``command=check``: the values of ``reduced``, unless the command line
    gives others."""
    given = [word.lstrip("+~").partition("=")[0] for word in HydraConfig.get().overrides.task]
    sizes = {name: value for name, value in (config.get("reduced") or {}).items() if f"task.{name}" not in given}
    if "data" in given:
        sizes.pop("data", None)
    return merged(config, {"task": sizes})


def merged(config: DictConfig, changes: dict[str, Any]) -> DictConfig:
    """The settings with ``changes`` put in."""
    return cast(DictConfig, OmegaConf.merge(config, changes))  # a list only where both are


def check_unchanged(config: DictConfig, recorded: DictConfig) -> None:
    """Refuses a resumed run whose settings state another problem than the record, because the record would mix two
    problems."""
    for key in PROBLEM:
        before, now = (flat(key, OmegaConf.select(resolved(one), key)) for one in (recorded, config))
        for name in sorted(before | now):
            if before.get(name) != now.get(name) and not name.endswith(".root"):  # the same data may lie elsewhere
                raise SettingsError(
                    f"{name}={now.get(name)}: the run was started with {before.get(name)}, and what defines the "
                    "problem cannot change while it goes on (steps, patience and loggers can): start a new run from "
                    "its hyperparameters by fork=DIR."
                )


def resolved(config: DictConfig) -> Any:
    return OmegaConf.create(OmegaConf.to_container(config, resolve=True))


def flat(name: str, value: Any) -> dict[str, Any]:
    """A tree of settings by dotted names.

    >>> flat("task", {"train": 10, "data": {"name": "iris"}})
    {'task.train': 10, 'task.data.name': 'iris'}
    """
    if not isinstance(value, dict | DictConfig):
        return {name: value}
    return {key: entry for part in value for key, entry in flat(f"{name}.{part}", value[part]).items()}


def check_kind(key: str, value: Any, default: Any) -> None:
    """Refuses ``value`` where ``default`` is of another kind; accepts all values where the default is null.

    >>> check_kind("trainer.steps", 50, 100)
    >>> check_kind("trainer.steps", "many", 100)
    Traceback (most recent call last):
    bilevel.cli.sentences.SettingsError: trainer.steps=many: a whole number is needed, as in trainer.steps=100.
    """
    if isinstance(default, DictConfig) and not isinstance(value, DictConfig):
        names, given = ", ".join(map(str, default)), "" if value is None else value
        raise SettingsError(f"{key}={given}: {key} is a group of settings; set one of {names}.")
    if isinstance(default, ListConfig) and not isinstance(value, ListConfig):
        raise SettingsError(f"{key}={value}: a list is needed, as in {key}=[a,b].")
    kind = type(default)
    if kind not in KINDS:
        return
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(value, bool)
    if not fits:
        raise SettingsError(f"{key}={value}: {KINDS[kind]} is needed, as in {key}={str(default).lower()}.")
    if isinstance(value, float) and math.isnan(value):
        raise SettingsError(f"{key}={value}: a number is needed, as in {key}={default}.")
