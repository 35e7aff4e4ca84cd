"""A logger follows one run, step by step."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

LOG = logging.getLogger("bilevel")
INTERRUPTED = "interrupted"
FAILED = ("failed", INTERRUPTED)  # values of `summary["status"]` for a run that did not reach its end


class Run(NamedTuple):
    """The facts about a run that a logger gets."""

    directory: Path | None = None  # where the run writes; None: nowhere
    config: Mapping[str, Any] = MappingProxyType({})  # the settings, as plain numbers, strings, lists and dicts
    steps: int = 0  # the outer steps that are planned
    name: str = "run"
    resumed: bool = False  # whether it continues the run in its directory
    profile: bool = False  # whether times of compilation are to be shown


class Logger(abc.ABC):
    """Follows one run: ``start``, then ``log`` after each outer step, ``figure`` at will, and ``finish`` in any case.

    A resumed run starts with the number of steps in the checkpoint and with the value that ``state`` returned then.
    """

    @abc.abstractmethod
    def start(self, run: Run, step: int = 0, state: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Begins after ``step`` finished steps; ``state`` is the value of `state` at the checkpoint."""

    @abc.abstractmethod
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of one outer step: numbers, strings, or lists of numbers. Steps ascend."""

    @abc.abstractmethod
    def figure(self, name: str, figure: Any) -> None:
        """Records a matplotlib figure."""

    @abc.abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Ends the record; ``summary["status"]`` is one of `FAILED` where the run broke off."""

    def ready(self) -> None:  # noqa: B027  # nothing to do is a good default
        """Raises ValueError where this logger could not begin; called before any work."""

    def phase(self, name: str) -> None:  # noqa: B027  # nothing to do is a good default
        """Says what the run does now, where that is no outer step, as "baselines"."""

    def within(self, what: str, done: int, total: int) -> None:  # noqa: B027  # nothing to do is a good default
        """Says how far the phase is: ``done`` of ``total`` ("penalties", 3, 20)."""

    def sync(self) -> None:  # noqa: B027  # nothing to do is a good default
        """Writes the log to the disk, so that it survives a crash of the machine; called before each checkpoint."""

    def state(self) -> dict[str, Any]:
        """The state, as JSON, with which a later process continues the same record."""
        return {}


def by_name(loggers: Sequence[Logger]) -> dict[str, Logger]:
    """Loggers by the names under which a checkpoint keeps their state: a run that goes on may have others beside them.

    >>> from bilevel.loggers import JsonLines
    >>> list(by_name([JsonLines(), JsonLines()]))
    ['JsonLines', 'JsonLines 2']
    """
    found: dict[str, Logger] = {}
    for logger in loggers:
        name = type(logger).__name__
        number = 1 + sum(type(other) is type(logger) for other in found.values())
        found[name if number == 1 else f"{name} {number}"] = logger
    return found


def finish_all(loggers: Sequence[Logger], summary: Mapping[str, Any]) -> None:
    """Ends every record. A failure does not stop the others; it is raised after them."""
    errors: list[Exception] = []
    for logger in loggers:
        try:
            logger.finish(summary)
        except Exception as error:  # of every kind, because it is raised again below
            errors.append(error)
    for error in errors[1:]:
        LOG.error("Another record could not be ended: %s", error)
    if errors:
        raise errors[0]


def plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays and scalars of any library as Python numbers and lists; strings, dicts and None as they are.

    >>> plain({"loss": np.float64(0.5), "steps": np.array(3), "best": None, "counts": {"gradients": np.int32(7)}})
    {'loss': 0.5, 'steps': 3, 'best': None, 'counts': {'gradients': 7}}
    """
    return {str(name): _plain(value) for name, value in metrics.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, str):
        return value
    return np.asarray(value).tolist()


def brief(value: Any) -> str:
    """A value for people: four significant digits.

    >>> brief(0.123456), brief(12), brief("adam")
    ('0.1235', '12', 'adam')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)
