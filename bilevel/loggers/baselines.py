"""How a summary names its baselines: ``baseline_METRIC`` or ``baseline_WHICH_METRIC``, and the words for each.

The headline of a run has the words for some of these entries (``against``). An entry of the same baseline that the
headline leaves out, as the test loss beside the test accuracy, takes the same words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BASELINE = "baseline_"
OUTER = ("outer_loss", "validation_loss")  # how a baseline may name its figure that stands beside the outer loss


def baselines_of(summary: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The baselines of a metric of the record, by their words.

    >>> head = {"against": {"baseline_noisy_accuracy": "without cleaning"}}
    >>> baselines_of({"headline": head, "baseline_noisy_test_loss": 0.9, "baseline_test_loss": 0.4}, "test/loss")
    {'without cleaning': 0.9, 'baseline': 0.4}
    """
    wanted = OUTER if metric == "outer/loss" else (metric.replace("/", "_"),)
    found: dict[str, float] = {}
    for entry, value in summary.items():
        if (parts := _parts(entry, wanted)) and isinstance(value, int | float) and math.isfinite(value):
            which = parts[0]
            found[_words(which, summary) or which.replace("_", " ") or "baseline"] = float(value)
    return found


def baseline_in_words(summary: Mapping[str, Any], entry: str) -> str:
    """The name of one entry for people.

    >>> summary = {"headline": {"against": {"baseline_noisy_accuracy": "without cleaning"}}, "initial_test_loss": 2.0}
    >>> [baseline_in_words(summary, f"baseline_{name}") for name in ("noisy_test_loss", "penalty")]
    ['test loss without cleaning', 'baseline penalty']
    """
    parts = _parts(entry, _metrics(summary))
    words = _words(parts[0], summary) if parts else ""
    return f"{parts[1]} {words}".replace("_", " ") if parts and words else entry.replace("_", " ")


def _metrics(summary: Mapping[str, Any]) -> list[str]:
    """The metrics of a run, long names first, because "test_loss" ends as "loss" does."""
    known = {*OUTER, *(name.removeprefix("initial_") for name in summary if name.startswith("initial_"))}
    return sorted(known, key=lambda name: (-len(name), name))


def _parts(entry: str, metrics: tuple[str, ...] | list[str]) -> tuple[str, str] | None:
    """(which baseline, the metric) of an entry; None where it is no baseline of one of these metrics."""
    for metric in metrics if entry.startswith(BASELINE) else ():
        if entry.endswith(f"_{metric}"):
            return entry.removeprefix(BASELINE).removesuffix(metric).strip("_"), metric
    return None


def _words(which: str, summary: Mapping[str, Any]) -> str:
    """The words of the headline for the baseline ``which``; "" is the one whose figures are called as the metrics
    themselves. "" where the headline does not name it."""
    head = summary.get("headline")  # the record of a failed run may have a null there
    against: Mapping[str, str] = head.get("against") or {} if isinstance(head, Mapping) else {}
    metrics = _metrics(summary)
    for entry in (entry for entry in against if entry.startswith(BASELINE)):
        figure = entry.removeprefix(BASELINE)
        if f"{figure}_".startswith(f"{which}_") if which else figure in metrics:
            return against[entry]
    return ""
