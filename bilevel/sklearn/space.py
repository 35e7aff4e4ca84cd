"""The space of a search: the user's dictionary, as one vector of unknowns with bounds, and as penalties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilevel.sklearn.estimators import Family
from bilevel.sklearn.parameters import Parameter, positive, share

SPAN = 1e3  # the range of gamma around the reciprocal of the number of features, up and down


@dataclass(frozen=True)
class Space:
    """The unknowns of a search, and the log penalties of every coefficient that follow from them."""

    family: Family
    strength: Parameter | None  # None: the value of the estimator
    ratio: Parameter | None
    fixed: float  # the log strength where nothing tunes it
    share: float  # the share of the l1 penalty where nothing tunes it
    shape: tuple[int, int]  # of the penalties: (features, columns)
    gamma: Parameter | None = None  # of an rbf kernel; its log is a scale of each feature
    intercept: float | None = None  # log of the ratio of the penalty of the intercept to the mean over the features

    @property
    def parameters(self) -> list[Parameter]:
        return [one for one in (self.strength, self.ratio, self.gamma) if one is not None]

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
        """{"l1": log penalties, "l2": log penalties}, each of ``shape``; a penalty that no coefficient has is left out.
        A penalised intercept is a last row. For a kernel machine {"strength": (1, 1), "gamma": logs, (features, 1)}."""
        strength, ratio, gamma = self._parts(u)
        if self.family.kernel:
            scales = np.zeros(1) if gamma is None else gamma
            index = np.zeros((1, 1), int) if self.gamma is None else self.gamma.index
            return {
                "strength": np.reshape(self._log_strength(strength), (1, 1)),
                "gamma": np.array(np.broadcast_to(scales[index], (self.shape[0], 1))),
            }
        logs = np.broadcast_to(self._log_strength(strength), self.shape)
        if self.intercept is not None:
            logs = np.vstack([logs, np.mean(logs, axis=0, keepdims=True) + self.intercept])
        with np.errstate(divide="ignore"):
            own: dict[str, Any] = {"l1": np.log(self.share), "l2": np.log1p(-self.share)}
        if ratio is not None:
            own = {"l1": -np.log1p(np.exp(-ratio[0])), "l2": -np.log1p(np.exp(ratio[0]))}
        return {name: logs + own[name] for name in own if getattr(self, name)}

    def pullback(self, u: np.ndarray, gradients: dict[str, np.ndarray]) -> np.ndarray:
        """The gradient in the unknowns from that in the log penalties."""
        _, ratio, _ = self._parts(u)
        sign, parts = -1.0 if self.family.inverse else 1.0, []
        if self.family.kernel:
            if self.strength is not None:
                parts.append(sign * gradients["strength"].ravel())
            if self.gamma is not None:
                index = np.broadcast_to(self.gamma.index, (self.shape[0], 1))
                parts.append(np.bincount(index.ravel(), np.ravel(gradients["gamma"]), self.gamma.size))
            return np.concatenate(parts)
        if self.strength is not None:
            total: Any = sum(gradients.values()) * sign
            if self.intercept is not None:  # its penalty is the mean of the others
                total = total[:-1] + total[-1:] / self.shape[0]
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

    def _parts(self, u: np.ndarray) -> tuple[np.ndarray | None, ...]:
        """The unknowns of strength, ratio and gamma."""
        parts = iter(self.split(u))
        return tuple(None if one is None else next(parts) for one in (self.strength, self.ratio, self.gamma))

    def _log_strength(self, u: np.ndarray | None) -> np.ndarray:
        if self.strength is None or u is None:
            return np.full((1, 1), self.fixed)
        return (-1.0 if self.family.inverse else 1.0) * u[self.strength.index]


def space_of(
    stated: dict[str, Any], estimator: Any, family: Family, shape: tuple[int, int], names: list[str] | None
) -> Space:
    """The space that the user's dictionary states for coefficients of this shape.

    Raises ValueError with a sentence for an entry that it cannot have.
    """
    known = [family.strength, *([family.ratio] if family.ratio else []), *(["gamma"] if rbf(family, estimator) else [])]
    if not isinstance(stated, dict) or not stated:
        raise ValueError(f"space has to be a dict with at least one of the parameters {', '.join(known)}.")
    for name in stated:
        if name not in known:
            raise ValueError(
                f"{name!r} is not a parameter of {type(estimator).__name__} that HypergradientSearchCV tunes: it tunes "
                f"{', '.join(known)}."
            )
    strength = ratio = gamma = intercept = None
    if family.strength in stated:
        strength = positive(family.strength, family.span, stated[family.strength], shape, names)
        if family.kernel and strength.many:
            raise ValueError(
                f"The space of {family.strength} of {type(estimator).__name__} is one value: a kernel machine has one "
                'penalty. With an rbf kernel gamma="per_feature" is a scale a feature.'
            )
    if family.ratio in stated:
        ratio = share(family.ratio, stated[family.ratio])
    if "gamma" in stated:
        middle = 1 / max(shape[0], 1)  # scikit-learn's own choice for columns of variance 1
        gamma = positive("gamma", (middle / SPAN, middle * SPAN), stated["gamma"], (shape[0], 1), names)
    if family.loss == "squared_hinge" and estimator.fit_intercept:
        intercept = -2 * math.log(estimator.intercept_scaling)
    given = getattr(estimator, family.strength)
    if strength is None and not given > 0:
        raise ValueError(
            f"{type(estimator).__name__}({family.strength}={given}) has no logarithm: give a number above 0."
        )
    fixed = 0.0 if strength is not None else math.log(given) * (-1 if family.inverse else 1)
    return Space(family, strength, ratio, fixed, family.share(estimator), shape, gamma, intercept)


def rbf(family: Family, estimator: Any) -> bool:
    """Whether this is a kernel machine with scales to tune."""
    return family.kernel and estimator.kernel == "rbf"
