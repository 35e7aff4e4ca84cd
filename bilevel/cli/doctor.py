"""``command=doctor RUN``: the causes of a run's failures and their cures; ``replay=K`` takes a step again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from omegaconf import DictConfig, OmegaConf

from bilevel.cli.ending import short
from bilevel.cli.sentences import SettingsError
from bilevel.cli.settings import merged
from bilevel.cli.train import build, use_compilation_cache
from bilevel.foundation.readable import counted
from bilevel.loggers import JsonLines, read_json_lines
from bilevel.loggers.strict_json import loads
from bilevel.report.commands import command, overrides_of
from bilevel.task import PRECISIONS
from bilevel.verification import Record, diagnose, statuses


def doctor(config: DictConfig) -> None:
    """Prints how the solves ended, and each cause with its evidence and the command that cures it. With ``replay=K`` it
    examines step K closely. It reads the record only; nothing in the directory changes."""
    directory = Path(config.run)
    record = read(directory, config)
    print(f"{short(directory)}: {title(record)}")
    for line in statuses(record):
        print(f"  {line}")
    findings = diagnose(record)
    for number, finding in enumerate(findings, start=1):
        print(f"{number}. {finding.cause}: {finding.evidence}.\n   {finding.cure}.")
        if finding.overrides:
            print(f"   {command(overrides_of(directory), finding.overrides)}")
    if not findings:
        print("Nothing that went wrong is on record.")
    if config.get("replay") is not None:
        for line in replayed(config, directory, int(config.replay)):
            print(line)


def read(directory: Path, config: DictConfig) -> Record:
    """The record of a run."""
    summary = directory / "summary.json"
    try:
        found = loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {"status": "broken off"}
    except ValueError as error:
        raise SettingsError(
            f"{summary} is damaged ({error}): remove it, and the doctor reads the lines of the record."
        ) from error
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return Record.of(read_json_lines(directory / JsonLines.filename), found, settings)


def title(record: Record) -> str:
    """The settings of the run, and how it ended."""
    summary = record.summary
    sizes = [counted(summary[f"{word}s"], word) for word in ("unknown", "hyperparameter") if f"{word}s" in summary]
    what = f"{summary.get('task', 'a run')} by {summary.get('engine', 'an engine')}, {summary.get('status')}"
    return ", ".join([f"{what} after {len(record.lines)} outer steps", *sizes])


def replayed(config: DictConfig, directory: Path, step: int) -> Iterator[str]:
    """Step ``step`` taken again from the nearest checkpoint, and its examination."""
    from bilevel.training.fit import Fit
    from bilevel.training.outer_step import point_of
    from bilevel.verification.scrutiny import scrutinize

    steps = len(read_json_lines(directory / JsonLines.filename))
    if not 0 <= step <= steps:
        raise SettingsError(f"replay={step}: the run has the steps 0 to {steps}.")
    use_compilation_cache(config.compilation_cache)
    task, trainer = build(merged(config, {"progress": False, "report": False, "logger": None}))
    double, _ = build(merged(config, {"progress": False, "report": False, "logger": None, "task": precise(config)}))
    with jax.enable_x64(PRECISIONS[task.precision]), ExitStack() as stack:
        fit = Fit(replace(trainer, loggers=()), task, jax.random.key(config.seed), None, stack)
        state = fit.reach(step, directory)
        point = point_of(task, state.key, state.step, state.hparams)
        yield f"step {step}:"
        for line in scrutinize(task, double, fit.engine, point, state.carry):
            yield f"  {line}"


def precise(config: DictConfig) -> dict[str, str]:
    """The settings that put a task into double precision, where it has a choice."""
    return {"precision": "float64"} if "precision" in config.task else {}
