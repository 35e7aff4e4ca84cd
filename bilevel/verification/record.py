"""The record of a run as a diagnosis reads it, and its findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Record:
    """A line for each step (``metrics.jsonl``; the failed step last), the summary and the settings of a run."""

    lines: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], config: Mapping[str, Any]) -> Record:
        """The record with the failed step, which the summary holds, as its last line."""
        failure = summary.get("failure")
        return cls([*lines, failure] if failure else list(lines), summary, config)

    def setting(self, key: str, default: Any = None) -> Any:
        """The value of a dotted setting; ``default`` where there is none."""
        node: Any = self.config
        for name in key.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        return default if node is None else node

    def series(self, name: str) -> list[float]:
        """A metric over the steps that have it as a number."""
        return [float(line[name]) for line in self.lines if isinstance(line.get(name), int | float)]


class Finding(NamedTuple):
    """A cause, its evidence, its cure, and the overrides for that (none where no setting helps)."""

    cause: str
    evidence: str
    cure: str
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        settings = f"\n    change: {' '.join(self.overrides)}" if self.overrides else ""
        return f"{self.cause}: {self.evidence}.\n    {self.cure}.{settings}"
