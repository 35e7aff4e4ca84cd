"""What a run achieved, in one sentence: the figure that counts, beside its baselines and its start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bilevel.engines.failure import LOG
from bilevel.task import Headline

COUNTED = ("test/accuracy", "test/auc", "test/r2", "test/loss")  # in this order, for a task that names none
OUTER = "outer/loss"


def headline(stated: Headline, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figure that counts, as the summary keeps it: ``sentence, metric, name, value``, the ``start``, and the
    ``baselines`` in words. ``against`` has the words of these by their names in the summary. {} where there is no such
    figure.

    >>> figures = {"test_accuracy": 0.953, "initial_test_accuracy": 0.8, "baseline_noisy": 0.847}
    >>> told = headline(Headline(against={"baseline/noisy": "without cleaning"}), figures)
    >>> told["sentence"]
    'test accuracy 0.953; 0.847 without cleaning; 0.8 at the start'
    """
    metric = _metric(stated, summary)
    entry, start = ("best_outer_loss", "initial_outer_loss") if metric == OUTER else (key(metric), "")
    value = _number(summary, entry)
    if value is None:
        return {}
    first = _number(summary, start or f"initial_{entry}")
    against = stated.against or {f"baseline_{entry}": "of the baseline"}
    baselines = {words: _number(summary, key(name)) for name, words in against.items()}
    if stated.against and (missing := [words for words, number in baselines.items() if number is None]):
        LOG.warning("The headline's baselines have no number for: %s.", ", ".join(missing))
    known = {words: number for words, number in baselines.items() if number is not None}
    told = {key(name): words for name, words in against.items() if words in known}
    name = stated.name or metric.replace("/", " ").replace("_", " ")
    return {
        "sentence": sentence(name, value, known, first),
        "metric": metric,
        "name": name,
        "value": value,
        **({} if first is None else {"start": first}),
        "baselines": known,
        "against": told,
    }


def sentence(name: str, value: float, baselines: Mapping[str, float], start: float | None) -> str:
    """The figure, then the baselines, then the start."""
    parts = [f"{name} {short(value)}"]
    if not math.isfinite(value):
        parts = [f"{name} is no finite number ({value}): look for NaN in the data that it is measured on"]
    if baselines:
        parts.append(", ".join(f"{short(number)} {words}" for words, number in baselines.items()))
    if start is not None:
        parts.append(f"{short(start)} at the start")
    return "; ".join(parts)


def key(metric: str) -> str:
    """The name under which the summary has a metric."""
    return metric.replace("/", "_")


def short(value: float) -> str:
    """Three significant digits, and whole numbers as they are.

    >>> short(0.95312), short(1234.5), short(12.0), short(1.5e-9)
    ('0.953', '1,234', '12', '1.5e-09')
    """
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _metric(stated: Headline, summary: Mapping[str, Any]) -> str:
    """The metric that counts: the one that is stated, else a result on test data, else the outer loss."""
    if stated.metric and (stated.metric == OUTER or key(stated.metric) in summary):
        return stated.metric
    if stated.metric:
        LOG.warning("The headline's metric %s is not among the figures of the run.", stated.metric)
    known = [name for name in COUNTED if key(name) in summary]
    return known[0] if known else OUTER


def _number(summary: Mapping[str, Any], name: str) -> float | None:
    value = summary.get(name)
    return float(value) if isinstance(value, int | float) else None
