"""The solutions of a lasso at every strength, from which the solves on the folds start.

They are piecewise linear in the strength, so a path of some hundred breakpoints holds all of them (Osborne et al.,
2000; Efron et al., 2004). Coordinate descent needs thousands of rounds for each one where a fold has as many
coefficients as rows. `newton` makes a start exact, and says whether it is.

A path is followed in segments, each on the features that may enter in it by a rule that can fail and is checked, like
the strong rule (Tibshirani et al., 2012). So all of X is read once a segment, and not at each breakpoint.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs

from bilevel.sklearn.folds import Folds
from bilevel.sklearn.statements import Kind

LARGEST = 2e9  # rows * features * breakpoints up to which a path takes no longer than some solves
TURNS = 4  # breakpoints of a path, for each coefficient that can be nonzero
SEGMENT = 0.65  # strength at the end of a segment, relative to that at its begin
SLOPE = 0.25  # correlations that move by less than this a unit of strength: the strong rule has 1, and fails less often
DEPENDENT = 1e-10  # share of its squares that a feature keeps beside the active ones, or it does not enter
ROUNDING = 1e-9  # of a correlation, relative to the strength
FACTORED: Any = get_lapack_funcs("posv", dtype=np.float64)  # a Cholesky factor and the solution by it, in one call


class Breakpoint(NamedTuple):
    strength: float
    active: np.ndarray  # (k,): the features that have a coefficient, in the order of their entrance
    weights: np.ndarray  # (k,): their coefficients


class Place(NamedTuple):
    """How far a path has come."""

    strength: float
    active: np.ndarray  # as in Breakpoint
    weights: np.ndarray
    signs: np.ndarray  # (k,): of the correlations of the active features with the residual
    columns: np.ndarray  # (k, rows): the active features, centred
    gram: np.ndarray  # (k, k): their weighted products
    residual: np.ndarray  # (rows,)

    def breakpoint(self) -> Breakpoint:
        return Breakpoint(self.strength, self.active, self.weights)

    def without(self, which: int) -> Place:
        keep = np.arange(len(self.active)) != which % len(self.active)
        active, weights, signs, columns = (one[keep] for one in self[1:5])
        return Place(self.strength, active, weights, signs, columns, self.gram[keep][:, keep], self.residual)

    def entered(self, feature: int, sign: float, column: np.ndarray, shares: np.ndarray) -> Place:
        columns, count = np.concatenate([self.columns, column[None]]), len(self.active)
        gram = np.empty((count + 1, count + 1))
        gram[:count, :count], gram[count] = self.gram, columns @ (shares * column)
        gram[:count, count] = gram[count, :count]
        active, weights, signs = self.active, self.weights, self.signs
        active, weights, signs = longer(active, feature), longer(weights, 0.0), longer(signs, sign)
        return Place(self.strength, active, weights, signs, columns, gram, self.residual)


def longer(array: np.ndarray, value: float) -> np.ndarray:
    """The array with one more entry. np.append takes five times as long, and a breakpoint has three of them."""
    found = np.empty(len(array) + 1, array.dtype)
    found[:-1], found[-1] = array, value
    return found


class Lane(NamedTuple):
    """1/2 sum_i s_i (x_i'w + b - y_i)^2 + strength sum_j |w_j|, with shares s that sum to one.

    Rows of the share zero stay in, because leaving them out would copy X for each lane. The mean of a residual is zero
    where there is an intercept, so its correlations need no centred features.
    """

    features: np.ndarray  # (features, rows)
    shares: np.ndarray  # (rows,)
    means: np.ndarray  # (features,); zeros without an intercept

    def correlations(self, residual: np.ndarray) -> np.ndarray:
        return self.features @ (self.shares * residual)

    def column(self, feature: int) -> np.ndarray:
        return self.features[feature] - self.means[feature]

    def start(self, residual: np.ndarray) -> Place:
        """The strength at which the first feature enters."""
        correlations, none = self.correlations(residual), np.zeros(0)
        first, rows = int(np.argmax(np.abs(correlations))), np.zeros((0, len(residual)))
        strength = float(np.abs(correlations[first]))
        place = Place(strength, np.zeros(0, int), none, none, rows, np.zeros((0, 0)), residual)
        return place.entered(first, float(np.sign(correlations[first])), self.column(first), self.shares)

    def onward(self, place: Place, least: float, most: int) -> tuple[list[Breakpoint], Place]:
        """The breakpoints from a place down to the least strength, or to the last of those allowed."""
        path, correlations = [], self.correlations(place.residual)
        while place.strength > least and len(path) < most and len(place.active):
            end = max(SEGMENT * place.strength, least)
            may = np.abs(correlations) >= end - SLOPE * (place.strength - end)
            may[place.active] = True
            found, ahead, broken = [], place, np.ones(1, bool)
            while np.any(broken):  # the rule can fail: a feature that it left out and that has entered comes in
                found, ahead = self.segment(place, end, np.flatnonzero(may), most)
                correlations = self.correlations(ahead.residual)
                broken = ~may & (np.abs(correlations) > (1 + ROUNDING) * ahead.strength)
                may |= broken
            place, path = ahead, path + found
        return path, place

    def segment(self, place: Place, end: float, may: np.ndarray, most: int) -> tuple[list[Breakpoint], Place]:
        """The breakpoints from a place down to the strength ``end``, where only the features ``may`` enter."""
        part, found = self.features[may], []
        correlations, free = part @ (self.shares * place.residual), np.ones(len(may), bool)
        free[np.searchsorted(may, place.active)] = False
        while place.strength > end and len(place.active) and len(found) < most:
            factor, way, info = FACTORED(place.gram, place.signs, lower=1)
            if info or factor[-1, -1] ** 2 <= DEPENDENT * place.gram[-1, -1]:
                place = place.without(-1)  # it is a combination of the others, and stays out
                continue
            moved = way @ place.columns
            slopes = part @ (self.shares * moved)
            with np.errstate(divide="ignore", invalid="ignore"):  # strengths to go until a feature enters or leaves
                up = np.where(free & (slopes < 1), (place.strength - correlations) / (1 - slopes), np.inf)
                down = np.where(free & (slopes > -1), (place.strength + correlations) / (1 + slopes), np.inf)
                leave = np.where(place.weights * way < 0, -place.weights / way, np.inf)
            first, last, gone = int(up.argmin()), int(down.argmin()), int(leave.argmin())
            above = up[first] <= down[last]
            which, sign, enter = (first, 1.0, float(up[first])) if above else (last, -1.0, float(down[last]))
            size = max(min(enter, float(leave[gone]), place.strength - end), 0.0)
            correlations = correlations - size * slopes
            place = place._replace(
                strength=end if size == place.strength - end else place.strength - size,
                weights=place.weights + size * way,
                residual=place.residual - size * moved,
            )
            found.append(place.breakpoint())
            if leave[gone] <= size:
                free[np.searchsorted(may, place.active[gone])] = True
                place = place.without(gone)
            elif enter <= size:
                free[which] = False
                place = place.entered(int(may[which]), sign, self.column(may[which]), self.shares)
        return found, place


class Path:
    """The solutions of 1/2 sum_i s_i (x_i'w + b - y_i)^2 / sum_i s_i + strength sum_j |w_j|.

    ``features`` is X transposed, (features, rows). The path goes down as far as strengths are asked for."""

    def __init__(self, features: np.ndarray, targets: np.ndarray, weights: np.ndarray, intercept: bool) -> None:
        shares = weights / np.sum(weights)
        self.lane = Lane(features, shares, features @ shares if intercept else np.zeros(len(features)))
        self.intercept, self.mean = intercept, float(targets @ shares) if intercept else 0.0
        self.place = self.lane.start(targets - self.mean)
        self.found = [Breakpoint(self.place.strength, np.zeros(0, int), np.zeros(0))]
        self.most = TURNS * min(int(np.sum(weights > 0)), len(features))

    def at(self, strength: float) -> np.ndarray:
        """(features + intercept,)"""
        more, self.place = self.lane.onward(self.place, strength, self.most - len(self.found))
        self.found += more
        strengths = np.array([one.strength for one in self.found])
        high = min(int(np.searchsorted(-strengths, -strength)), len(strengths) - 1)
        low = max(high - 1, 0)
        gap = strengths[low] - strengths[high]
        share = float(np.clip((strengths[low] - strength) / gap, 0, 1)) if gap > 0 else 1.0
        params = np.zeros(len(self.lane.features) + self.intercept)
        for one, part in ((self.found[low], 1 - share), (self.found[high], share)):
            params[one.active] += part * one.weights
        if self.intercept:
            params[-1] = self.mean - self.lane.means @ params[:-1]
        return params

    def columns(self) -> np.ndarray:
        """The features that have a coefficient somewhere on the path."""
        return np.unique(np.concatenate([one.active for one in self.found]))


def applies(kind: Kind, rows: int) -> bool:
    """Whether this is a lasso of one target whose paths are short."""
    breakpoints = min(rows, kind.features)
    plain = kind.loss == "squared" and kind.reduction == "mean" and kind.l1 and not (kind.l2 or kind.columns)
    return plain and rows * kind.features * breakpoints <= LARGEST


class Paths:
    """A path for each lane that counts, longer whenever a smaller strength is asked for."""

    def __init__(self, kind: Kind, folds: Folds, targets: np.ndarray, used: np.ndarray) -> None:
        self.kind, self.folds, self.targets, self.used = kind, folds, targets, used
        self.features = np.ascontiguousarray(np.swapaxes(folds.inputs, -1, -2))
        lanes = range(len(used))
        self.paths = [self._path(lane) if used[lane] else None for lane in lanes]

    def at(self, strength: float) -> np.ndarray:
        """The solution of each lane, (lanes, features + intercept, 1); zeros where a lane does not count."""
        none = np.zeros(self.kind.features + self.kind.intercept)
        return np.stack([none if path is None else path.at(strength) for path in self.paths])[..., None]

    def columns(self) -> np.ndarray:
        """The features that have a coefficient somewhere on the path of each lane, (lanes, features)."""
        found = np.zeros((len(self.used), self.kind.features), bool)
        for row, path in zip(found, self.paths, strict=True):
            if path is not None:
                row[path.columns()] = True
        return found

    def _path(self, lane: int) -> Path:
        features = self.features if self.features.ndim == 2 else self.features[lane]
        return Path(features, self.targets[lane], self.folds.train[lane], self.kind.intercept)
