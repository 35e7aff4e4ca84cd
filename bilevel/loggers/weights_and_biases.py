"""Metrics in Weights & Biases. The one door to wandb."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

from bilevel.loggers.base import FAILED, Logger, Run, plain

Mode = Literal["offline", "online", "disabled"]


class WandB(Logger):
    """A run of Weights & Biases: config, metrics over one ascending step, summary and figures.

    ``mode`` is "offline" (written to the run's directory; send it later with `wandb sync`), "online" or "disabled".
    A resumed run keeps its id, so that `wandb sync` joins its parts.
    """

    def __init__(
        self, mode: Mode = "offline", project: str = "bilevel", group: str | None = None, tags: Sequence[str] = ()
    ):
        if mode not in get_args(Mode):
            raise ValueError(
                f"W&B has no mode {mode!r}: choose offline, online or disabled (logger.mode, or WANDB_MODE)."
            )
        self.mode: Mode = mode
        self.project, self.group, self.tags = project, group, tuple(tags)

    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        if self.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # because offline must send nothing
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False)
        earlier = state.get("id")
        try:
            self.run = wandb.init(
                mode=self.mode,
                project=self.project,
                group=self.group,
                tags=self.tags,
                name=run.name,
                dir=run.directory,
                config=dict(run.config),
                id=earlier,
                resume="allow" if earlier and self.mode == "online" else None,
                reinit="create_new",  # a sweep holds one run after another in one process
                settings=settings,
            )
        except wandb.Error as error:
            raise ValueError(
                f"W&B did not start: {str(error).rstrip('.')}. Run `wandb login`, or choose logger.mode=offline."
            ) from error
        self.run.define_metric("*", step_metric="outer/step")
        self.step = step

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.run.log({"outer/step": step, **plain(metrics)}, step=step)
        self.step = step

    def figure(self, name: str, figure: Any) -> None:
        import matplotlib.pyplot  # noqa: F401  # W&B looks for it, imported or not
        import wandb

        self.run.log({f"figures/{name}": wandb.Image(figure)}, step=self.step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.run.summary.update(plain(summary))
        self.run.finish(exit_code=1 if summary.get("status") in FAILED else 0)

    def state(self) -> dict[str, Any]:
        return {"id": self.run.id}
