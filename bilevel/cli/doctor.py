"""``command=doctor RUN``: the causes of a run's failures, their cures, and a step of the run taken again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from omegaconf import DictConfig, OmegaConf

from bilevel.cli.sentences import SettingsError
from bilevel.cli.settings import merged
from bilevel.cli.train import build, short, use_compilation_cache
from bilevel.loggers import JsonLines, read_json_lines
from bilevel.loggers.strict_json import loads
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
    found = loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {"status": "broken off"}
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return Record.of(read_json_lines(directory / JsonLines.filename), found, settings)


def title(record: Record) -> str:
    """The settings of the run, and how it ended."""
    summary = record.summary
    sizes = [f"{summary[name]} {name}" for name in ("unknowns", "hyperparameters") if name in summary]
    what = f"{summary.get('task', 'a run')} by {summary.get('engine', 'an engine')}, {summary.get('status')}"
    return ", ".join([f"{what} after {len(record.lines)} outer steps", *sizes])


def overrides_of(directory: Path) -> list[str]:
    """The command that started the run, as it was typed."""
    path = directory / ".hydra" / "overrides.yaml"
    return typed([str(one) for one in OmegaConf.load(path)]) if path.is_file() else []


def typed(overrides: Sequence[str]) -> list[str]:
    """The overrides before `bilevel.cli.arguments.own_task` made them Hydra's.

    >>> typed(["task=own", "task._target_=mine.task", "++task.alpha=0.5"])
    ['task._target_=mine.task', 'task.alpha=0.5']
    """
    if "task=own" not in overrides:
        return list(overrides)
    return [one.replace("++task.", "task.", 1) for one in overrides if one != "task=own"]


def command(given: Sequence[str], change: Sequence[str]) -> str:
    """The command line of the run with a change: an override replaces the override of the same name, a choice of a
    group all overrides within the group.

    >>> command(["task=ridge", "engine=implicit_cg", "engine.linear_solve.tol=1e-3"], ["engine=implicit_dense"])
    'bilevel task=ridge engine=implicit_dense'
    """
    names = [name_of(one) for one in change]
    groups = tuple(f"{name}." for name in names if "." not in name)
    kept = [one for one in given if name_of(one) not in names and not name_of(one).startswith(groups)]
    return shlex.join(["bilevel", *kept, *change])


def name_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def replayed(config: DictConfig, directory: Path, step: int) -> Iterator[str]:
    """Step ``step`` taken again from the nearest checkpoint, and its examination."""
    from bilevel.training.fit import Fit
    from bilevel.training.outer_step import point_of
    from bilevel.verification.scrutiny import scrutinize

    steps = len(read_json_lines(directory / JsonLines.filename))
    if not 0 <= step <= steps:
        raise SettingsError(f"replay={step}: the run has the steps 0 to {steps}.")
    use_compilation_cache(config.compilation_cache)
    task, trainer = build(merged(config, {"progress": False, "logger": None}))
    double, _ = build(merged(config, {"progress": False, "logger": None, "task": precise(config)}))
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
