"""The space of a search: the user's dictionary, as one vector of unknowns with bounds, and as penalties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilevel.sklearn.estimators import Family

DECADES = 1e4  # the range around a starting value, up and down
NO_SPACE = "The space of {name} is {stated!r}: give a range (low, high), a start, or groups of features."
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
        """The parameter at the unknowns: a float, or an array with an entry for each unknown."""
        values = 1 / (1 + np.exp(-u)) if share else np.exp(u)
        return values if self.many else float(values[0])


@dataclass(frozen=True)
class Space:
    """The unknowns of a search, and the log penalties of every coefficient that follow from them."""

    family: Family
    strength: Parameter | None  # None: the estimator's own
    ratio: Parameter | None
    fixed: float  # the log strength where nothing tunes it
    share: float  # the share of the l1 penalty where nothing tunes it
    shape: tuple[int, int]  # of the penalties: (features, columns)

    @property
    def parameters(self) -> list[Parameter]:
        return [one for one in (self.strength, self.ratio) if one is not None]

    @property
    def many(self) -> bool:
        """Whether there is more than one unknown for a parameter, so that they can overfit the folds."""
        return any(one.size > 1 for one in self.parameters)

    @property
    def l1(self) -> bool:
        return self.ratio is not None or self.share > 0

    @property
    def l2(self) -> bool:
        return self.ratio is not None or self.share < 1

    @property
    def start(self) -> np.ndarray:
        return np.concatenate([np.full(one.size, one.start) for one in self.parameters])

    @property
    def bounds(self) -> np.ndarray:
        """(unknowns, 2)"""
        return np.concatenate([np.tile([one.low, one.high], (one.size, 1)) for one in self.parameters])

    def split(self, u: np.ndarray) -> list[np.ndarray]:
        """The unknowns of each parameter."""
        return np.split(u, np.cumsum([one.size for one in self.parameters])[:-1])

    def tied(self, common: np.ndarray) -> np.ndarray:
        """All unknowns of a parameter at one value; ``common`` has an entry for each parameter."""
        pairs = zip(self.parameters, common, strict=True)
        return np.concatenate([np.full(one.size, value) for one, value in pairs])

    def summed(self, gradient: np.ndarray) -> np.ndarray:
        """The derivative with respect to ``common`` of `tied`."""
        return np.array([np.sum(part) for part in self.split(gradient)])

    def penalties(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """{"l1": log penalties, "l2": log penalties}, each of ``shape``; one that is nowhere is left out."""
        strength, ratio = self._parts(u)
        logs = np.broadcast_to(self._log_strength(strength), self.shape)
        with np.errstate(divide="ignore"):
            own = {"l1": np.log(self.share), "l2": np.log1p(-self.share)}
        if ratio is not None:
            own = {"l1": -np.log1p(np.exp(-ratio[0])), "l2": -np.log1p(np.exp(ratio[0]))}
        return {name: logs + own[name] for name in own if getattr(self, name)}

    def pullback(self, u: np.ndarray, gradients: dict[str, np.ndarray]) -> np.ndarray:
        """The gradient in the unknowns from that in the log penalties."""
        _, ratio = self._parts(u)
        parts = []
        if self.strength is not None:
            total = sum(gradients.values()) * (-1.0 if self.family.inverse else 1.0)
            index = np.broadcast_to(self.strength.index, self.shape)
            parts.append(np.bincount(index.ravel(), np.ravel(total), self.strength.size))
        if ratio is not None:
            share = 1 / (1 + np.exp(-ratio[0]))
            parts.append([(1 - share) * np.sum(gradients["l1"]) - share * np.sum(gradients["l2"])])
        return np.concatenate(parts)

    def values(self, u: np.ndarray) -> dict[str, Any]:
        """The parameters of the estimator by name."""
        pairs = zip(self.parameters, self.split(u), strict=True)
        return {one.name: one.value(part, one is self.ratio) for one, part in pairs}

    def _parts(self, u: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        parts = iter(self.split(u))
        return (
            next(parts) if self.strength is not None else None,
            next(parts) if self.ratio is not None else None,
        )

    def _log_strength(self, u: np.ndarray | None) -> np.ndarray:
        if self.strength is None or u is None:
            return np.full((1, 1), self.fixed)
        return (-1.0 if self.family.inverse else 1.0) * u[self.strength.index]


def space_of(
    stated: dict[str, Any], estimator: Any, family: Family, shape: tuple[int, int], names: list[str] | None
) -> Space:
    """The user's dictionary for coefficients of this shape. Raises ValueError with a sentence for what it cannot be."""
    known = [family.strength, family.ratio] if family.ratio else [family.strength]
    if not isinstance(stated, dict) or not stated:
        raise ValueError(f"space has to be a dict with at least one of the parameters {', '.join(known)}.")
    for name in stated:
        if name not in known:
            raise ValueError(
                f"{name!r} is not a parameter of {type(estimator).__name__} that HypergradientSearchCV tunes: it tunes "
                f"{', '.join(known)}."
            )
    strength = ratio = None
    if family.strength in stated:
        strength = _strength(family, stated[family.strength], shape, names)
    if family.ratio in stated:
        ratio = _ratio(family.ratio, stated[family.ratio])
    given = getattr(estimator, family.strength)
    fixed = 0.0 if strength is not None else math.log(given) * (-1 if family.inverse else 1)
    return Space(family, strength, ratio, fixed, family.share(estimator), shape)


def _strength(family: Family, stated: Any, shape: tuple[int, int], names: list[str] | None) -> Parameter:
    name, (low, high) = family.strength, family.span
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


def _ratio(name: str, stated: Any) -> Parameter:
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
                raise ValueError(f"{member!r} in group {number} of {name} is no column of X.")
            if index[place] >= 0:
                raise ValueError(f"Column {member!r} is in two groups of {name}.")
            index[place] = number
    if np.any(index < 0):
        left = np.flatnonzero(index < 0)[:5].tolist()
        raise ValueError(f"The groups of {name} leave out the columns {left}: put every column in one group.")
    return index[:, None], len(groups)
