"""One entry of ``space``, a range, a start or groups, as unknowns with bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

DECADES = 1e4  # the range around a starting value, up and down
SHOWN = 5  # names of columns in a sentence
EDGE = 1e-3  # an l1_ratio stays this far from 0 and 1, where one of the two penalties vanishes


@dataclass(frozen=True)
class Parameter:
    """One parameter of the estimator: unknowns u (a log, or a logit for a share), bounds, and a start.

    ``index`` (features, columns) says which unknown a coefficient's penalty is; ``size`` unknowns in all.
    """

    name: str
    low: float
    high: float
    start: float
    index: np.ndarray
    size: int
    many: bool  # an array in best_params_, even if it has one entry

    def value(self, u: np.ndarray, share: bool) -> Any:
        """The parameter at the unknowns: a float, or an array with an entry an unknown."""
        values = 1 / (1 + np.exp(-u)) if share else np.exp(u)
        return values if self.many else float(values[0])


def positive(
    name: str, span: tuple[float, float], stated: Any, shape: tuple[int, int], names: list[str] | None
) -> Parameter:
    """A parameter that is positive, by its log."""
    low, high = span
    index, size, many = np.zeros((1, 1), int), 1, False
    if isinstance(stated, str):
        index, size = _named(name, stated, shape)
        many = True
    elif isinstance(stated, int | float | np.number):
        if stated <= 0:
            raise ValueError(f"The start {name}={stated} has no logarithm: give a number above 0.")
        low, high = stated / DECADES, stated * DECADES
    elif isinstance(stated, tuple):
        low, high = _range(name, stated)
        if low <= 0:
            raise ValueError(f"The range of {name} begins at {low}, which has no logarithm: begin above 0.")
    else:
        index, size = _groups(name, stated, shape[0], names)
        many = True
    start = math.log(stated) if isinstance(stated, int | float | np.number) else 0.5 * (math.log(low) + math.log(high))
    return Parameter(name, math.log(low), math.log(high), start, index, size, many)


def share(name: str, stated: Any) -> Parameter:
    """The share of the l1 penalty, one for all coefficients, by its logit."""
    low, high = (0.0, 1.0) if isinstance(stated, int | float | np.number) else _range(name, stated)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"The range ({low}, {high}) of {name} does not lie within (0, 1).")
    low, high = max(low, EDGE), min(high, 1 - EDGE)
    start = min(max(float(stated), low), high) if isinstance(stated, int | float | np.number) else 0.5 * (low + high)
    logits = [math.log(share / (1 - share)) for share in (low, high, start)]
    return Parameter(name, *logits, index=np.zeros((1, 1), int), size=1, many=False)


def _range(name: str, stated: Any) -> tuple[float, float]:
    if (
        not isinstance(stated, tuple)
        or len(stated) != 2
        or not all(isinstance(end, int | float | np.number) for end in stated)
    ):
        raise ValueError(
            f"The space of {name} is {stated!r}: give a range (low, high), a start, or groups of features."
        )
    low, high = map(float, stated)
    if not low < high:
        raise ValueError(f"The range ({low}, {high}) of {name} is empty: give (low, high) with low < high.")
    return low, high


def _named(name: str, stated: str, shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    if stated == "per_feature":
        return np.arange(shape[0])[:, None], shape[0]
    if stated == "per_class" and shape[1] > 1:
        return np.arange(shape[1])[None, :], shape[1]
    if stated == "per_class":
        raise ValueError(
            f"{name}='per_class' needs three classes or more: these targets have one column of coefficients."
        )
    raise ValueError(f"The space of {name} is {stated!r}: the rules with a name are 'per_feature' and 'per_class'.")


def _groups(name: str, stated: Any, features: int, names: list[str] | None) -> tuple[np.ndarray, int]:
    """A list of groups of features, by index or column name, that holds each feature once."""
    index = np.full(features, -1)
    try:
        groups = [list(group) for group in stated]
    except TypeError:
        groups = []
    if not groups:
        raise ValueError(
            f"The space of {name} is {stated!r}: give a range (low, high), a start, or groups of features."
        )
    for number, group in enumerate(groups):
        for member in group:
            place = names.index(member) if isinstance(member, str) and names and member in names else member
            if not isinstance(place, int | np.integer) or not 0 <= place < features:
                there = f", as the estimator gets it: its columns are {_listed(names)}" if names else ""
                raise ValueError(f"{member!r} in group {number} of {name} is no column of X{there}.")
            if index[place] >= 0:
                raise ValueError(f"Column {member!r} is in two groups of {name}.")
            index[place] = number
    if np.any(index < 0):
        left = np.flatnonzero(index < 0)[:5].tolist()
        raise ValueError(f"The groups of {name} leave out the columns {left}: put every column in one group.")
    return index[:, None], len(groups)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
