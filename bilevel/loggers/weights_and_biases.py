"""Metrics in Weights & Biases. The one door to wandb."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from bilevel.loggers.base import FAILED, Logger, Run, plain

Mode = Literal["offline", "online", "disabled"]
REPORT = "report.html"  # that a `bilevel.report.Page` writes before this logger ends


class WandB(Logger):
    """A run of Weights & Biases: config, metrics over one ascending step, summary, figures, the hyperparameters
    found as a table and the report as an artifact.

    ``mode`` is "offline" (written to the run's directory; send it later with `wandb sync`), "online" or "disabled".
    A resumed run keeps its id and its group, so that `wandb sync` joins its parts, also of one run of a sweep.
    """

    def __init__(
        self, mode: Mode = "offline", project: str = "bilevel", group: str | None = None, tags: Sequence[str] = ()
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(
                f"W&B has no mode {mode!r}: choose offline, online or disabled (logger.mode, or WANDB_MODE)."
            )
        self.mode: Mode = mode
        self.project, self.group, self.tags = project, group, tuple(tags)

    def ready(self) -> None:
        """Looks for an account, where the run is to be sent as it goes."""
        if self.mode != "online":
            return
        import wandb

        try:
            known = wandb.login(verify=False)
        except wandb.Error as error:
            raise _refused(error) from error
        if not known:
            raise _refused("there is no account here")

    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        if self.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # because offline must send nothing
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False)
        earlier, self.joined = state.get("id"), self.group or state.get("group")
        try:
            self.run = wandb.init(
                mode=self.mode,
                project=self.project,
                group=self.joined,
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
            raise _refused(error) from error
        self.run.define_metric("*", step_metric="outer/step")
        self.report = None if run.directory is None else Path(run.directory) / REPORT
        self.step = step

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.run.log({"outer/step": step, **plain(metrics)}, step=step)
        self.step = step

    def figure(self, name: str, figure: Any) -> None:
        import matplotlib.pyplot  # noqa: F401  # W&B looks for it, imported or not
        import wandb

        self.run.log({f"figures/{name}": wandb.Image(figure)}, step=self.step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._keep_findings(summary)
        # The last row first, because W&B puts its values into the summary: the hyperparameters of the last step there
        # would take the place of those found.
        self.run.log({}, step=self.step, commit=True)
        self.run.summary.update(plain(summary))
        self.run.finish(exit_code=1 if summary.get("status") in FAILED else 0)

    def _keep_findings(self, summary: Mapping[str, Any]) -> None:
        """The hyperparameters found as a table, and ``report.html`` as an artifact where the run has one."""
        import wandb

        rows = [[name, value] for name, value in _rows(summary.get("hparams_natural") or summary.get("hparams") or {})]
        if rows:
            table = wandb.Table(columns=["hyperparameter", "value"], data=rows)
            self.run.log({"hyperparameters": table}, step=self.step)
        if self.report is not None and self.report.is_file():
            artifact = wandb.Artifact(f"report-{self.run.id}", type="report")
            artifact.add_file(str(self.report))
            self.run.log_artifact(artifact)

    def state(self) -> dict[str, Any]:
        return {"id": self.run.id, "group": self.joined}


def _refused(why: Exception | str) -> ValueError:
    reason = str(why).partition("Use `wandb login`")[0].strip().rstrip(".")  # W&B's own remedy would be printed twice
    return ValueError(f"W&B did not start: {reason}. Run `wandb login`, or choose logger.mode=offline.")


def _rows(found: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Name and number of each hyperparameter in the summary's words.

    >>> list(_rows({"penalty": {"age": 0.5}, "rate": [1.0, 2.0]}))
    [('penalty age', 0.5), ('rate 0', 1.0), ('rate 1', 2.0)]
    """
    for name, value in found.items():
        label = f"{prefix} {name}".strip()
        if isinstance(value, Mapping | list | tuple):
            entries = value if isinstance(value, Mapping) else dict(enumerate(value))
            yield from _rows({str(key): entry for key, entry in entries.items()}, label)
        else:
            yield label, float(value)
