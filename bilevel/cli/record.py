"""The record of a run's settings, in its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bilevel.cli.arguments import LOGGER, plain_yaml
from bilevel.cli.distributed import STATED
from bilevel.cli.interrupts import heed
from bilevel.loggers import Logger, Run
from bilevel.loggers.json_lines import write_whole


class SettingsRecord(Logger):
    """``.hydra/``: the composed settings, and what was typed. It is written after all checks, so that a refused command
    does not change the record of an earlier run. Settings that a resumed run has changed hold from then on.
    """

    def __init__(self, config: DictConfig) -> None:
        own = {"resume": None, **({"distributed": dict.fromkeys(STATED)} if "distributed" in config else {})}
        self.config = OmegaConf.merge(config, own)

    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        assert run.directory is not None
        place, hydra = run.directory / ".hydra", HydraConfig.instance().cfg
        place.mkdir(exist_ok=True)
        typed = [one for one in HydraConfig.get().overrides.task if not of_processes(one)]
        if run.resumed:
            typed = continued(plain_yaml(place / "overrides.yaml", list), typed)
        elif hydra is not None:
            own = OmegaConf.masked_copy(cast(DictConfig, hydra), "hydra")
            write_whole(place / "hydra.yaml", OmegaConf.to_yaml(own))
        write_whole(place / "overrides.yaml", OmegaConf.to_yaml(typed))
        write_whole(place / "config.yaml", OmegaConf.to_yaml(self.config))

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Asks for a lost interrupt; settings do not change from step to step."""
        heed()

    def figure(self, name: str, figure: Any) -> None:
        """Asks for a lost interrupt; settings have no picture."""
        heed()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Nothing: all was written at the start."""


def continued(before: list[str], now: list[str]) -> list[str]:
    """The overrides typed for a run since its start; of a repeated override the last.

    >>> continued(["task=ridge", "logger=wandb"], ["trainer.steps=9", "++choose_logger=none", "resume=r"])
    ['task=ridge', 'trainer.steps=9', 'logger=none']
    """
    now = [re.sub(rf"^\+\+{LOGGER}=", "logger=", one) for one in now if not is_own(one)]
    names = {one.partition("=")[0] for one in now}
    return [*(one for one in before if one.partition("=")[0] not in names), *now]


def is_own(override: str) -> bool:
    """Whether an override names the run itself instead of a setting."""
    return override.lstrip("+").startswith(("resume=", "fork=")) or of_processes(override)


def of_processes(override: str) -> bool:
    """Whether an override names the processes of this start, which another start of the run need not have."""
    return override.lstrip("+").startswith("distributed.")
