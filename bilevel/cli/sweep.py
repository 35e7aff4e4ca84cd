"""A sweep: its folder, named by its settings; runs that an earlier start left; and the table at its end."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from bilevel.cli.arguments import quoted
from bilevel.cli.settings import merged

TABLE = "sweep.csv"
PLACE = "hydra.sweep.dir"
# Settings that do not change the result of a run.
ASIDE = (
    *("hydra", "command", "resume", "run", "replay", "report", "progress", "debug", "compilation_cache", "logger"),
    "distributed",
)
# What submitit, joblib and Ray raise where the process of a run has ended without an answer.
LOST = ("UncompletedJobError", "TerminatedWorkerError", "WorkerCrashedError")
ADVICE = (
    "the process of a run ended before the run did (killed, or out of memory); the same command line completes the "
    "sweep."
)
AGAIN = "the same command line goes on with the sweep"
_folders: list[Path] = []  # the folder of the sweep that this process runs


class Identified(Callback):
    """Names the folder of a sweep by its settings, so that the same command line finds what it has done already.

    The folder is remembered in this process, because Hydra's launchers may run the jobs in others.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        given = [str(one) for one in config.hydra.overrides.hydra]
        place = Path(config.hydra.sweep.dir)
        if not any(one.startswith(f"{PLACE}=") for one in given):
            place /= identity(config)
        place = place.absolute()  # the processes of a cluster may start elsewhere
        with open_dict(config):
            config.hydra.sweep.dir = str(place)
            # Hydra composes the settings of each job anew from the overrides.
            config.hydra.overrides.hydra = [*given, f"{PLACE}={quoted(place)}"]
        _folders[:] = [place]


def let_jobs_tell() -> None:
    """Keeps Hydra from printing the overrides of a job that failed, because the job has told its failure itself."""

    def returned(job: JobReturn) -> Any:
        assert job.status != JobStatus.UNKNOWN, "the job has not ended"
        if job.status == JobStatus.COMPLETED:
            return job._return_value
        raise job._return_value

    JobReturn.return_value = property(returned, JobReturn.return_value.fset)


def identity(config: DictConfig) -> str:
    """The name of a sweep: its task, and a hash of the composed settings with the values that are swept."""
    swept = [one for one in config.hydra.overrides.task if not is_aside(one.lstrip("+~").partition("=")[0])]
    params = OmegaConf.to_container(config.hydra.sweeper.get("params") or OmegaConf.create({}), resolve=True)
    # In the order typed, because it numbers the jobs.
    facts = [settled(config, resolve=False), swept, params, config.hydra.sweeper._target_]
    text = json.dumps(facts, sort_keys=True, default=str)
    tasks = next((one.partition("=")[2] for one in swept if one.startswith("task=")), config.hydra.runtime.choices.task)
    if tasks == "own":
        tasks = str(config.task.get("_target_")).rpartition(".")[2]
    readable = re.sub(r"[^\w-]+", "-", tasks).strip("-")
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def is_aside(name: str) -> bool:
    """Whether a setting leaves the result of a run unchanged.

    >>> [name for name in ("task.train", "progress", "data.root", "logger.group") if is_aside(name)]
    ['progress', 'data.root', 'logger.group']
    """
    return name.partition(".")[0] in ASIDE or name.endswith(".root")


def settled(config: DictConfig, resolve: bool = True) -> Any:
    """The settings that determine the result of a run, with their values. The folder of the data is left out."""
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in ASIDE])
    values: Any = OmegaConf.to_container(kept, resolve=resolve)
    for group in values.values():
        if isinstance(group, dict):
            group.pop("root", None)
    return values


def goes_on(config: DictConfig) -> DictConfig:
    """The settings of a job of a sweep that goes on where an earlier start of the same sweep stopped.

    A job whose folder holds a run with the same settings resumes it; for every other command they are as given.
    """
    context = HydraConfig.get()
    place = Path(context.runtime.output_dir)
    if context.mode != RunMode.MULTIRUN or config.get("resume") is not None or not record_of(place).is_file():
        return config
    return merged(config, {"resume": str(place)}) if is_same(config, place) else config


def record_of(place: Path) -> Path:
    """The file with the settings of the run in a folder."""
    return place / ".hydra" / "config.yaml"


def is_same(config: DictConfig, place: Path) -> bool:
    """Whether the run recorded in the folder has the settings of this one."""
    recorded = OmegaConf.load(record_of(place))
    return isinstance(recorded, DictConfig) and settled(recorded) == settled(config)


def waits(config: DictConfig) -> bool:
    """Whether this job waits for the process that is writing in its folder. It does in a sweep where that may be the
    same run: the jobs of submitit go on when their driver is killed, and the same line may be started beside them."""
    place = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode != RunMode.MULTIRUN or config.get("resume") is not None:
        return False
    return not record_of(place).is_file() or is_same(config, place)


def conclude() -> None:
    """Prints the table of the sweep that has just ended and writes it as CSV and as report.html into its folder.

    A failure here is one sentence and no error, because the runs are done.
    """
    for folder in _folders:
        try:
            if folder.is_dir():
                _conclude(folder)
        except (OSError, ValueError) as error:
            print(f"bilevel: the table of the sweep could not be made ({error}).", file=sys.stderr)
    _folders.clear()


def _conclude(folder: Path) -> None:
    from bilevel.loggers.json_lines import JsonLines, write_whole
    from bilevel.report import REPORT, found, page
    from bilevel.report.comparison import as_csv, as_text
    from bilevel.report.runs import is_run

    if not any(map(is_run, {path.parent for path in folder.rglob(JsonLines.filename)})):
        return  # every job was refused, and said so
    runs = found([folder])
    write_whole(folder / TABLE, as_csv(runs))
    write_whole(folder / REPORT, page(runs))
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 0
    print(
        f"\n{as_text(runs, width)}\n\nTable: {folder / TABLE}\nReport: {folder / REPORT}", file=sys.stderr, flush=True
    )
