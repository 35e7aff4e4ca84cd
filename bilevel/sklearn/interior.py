"""The dual of a support vector machine by an interior-point method.

It is for problems on which LIBSVM needs millions of steps: a linear kernel with a large C, or with columns of different
sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

STEPS = 60
GAP = 1e-13  # the complementarity at which it ends, relative to the start
BACK = 0.995  # the share of the way to the border that a step may go


class Point(NamedTuple):
    """The machine of two classes: z(x) = sum_j signs_j duals_j k(x, x_j) + intercept over its training rows.

    A dual is between 0 and its upper end, which is C times its weight. ``free`` says which duals solve the linear
    system, ``top`` which of the others are at their upper end.
    """

    duals: np.ndarray
    intercept: float
    free: np.ndarray
    top: np.ndarray


class Iterate(NamedTuple):
    """A primal-dual point of the box: dual a, multipliers of both ends and of the sum."""

    dual: np.ndarray
    low: np.ndarray
    high: np.ndarray
    intercept: float


def interior_point(own: np.ndarray, upper: np.ndarray, signs: np.ndarray) -> Point:
    """min 1/2 a'Qa - sum a, 0 <= a <= upper, signs'a = 0, with Q = signs own signs, by Mehrotra's method (1992).

    A dual is free whose share of its bound is larger than the multiplier of each end, a margin. The last systems may be
    singular where duals are not unique, so the last finite point is the result."""
    quadratic = signs[:, None] * own * signs
    ones = np.ones_like(upper)
    point = Iterate(0.5 * upper, ones, ones, 0.0)
    aim = GAP * _gap(point, upper)
    for _ in range(STEPS):
        if not _gap(point, upper) > aim:
            break
        try:
            new = _after(point, quadratic, upper, signs)
        except (LinAlgError, ValueError):  # scipy refuses a matrix that is not definite, or not finite
            break
        if not np.isfinite(_gap(new, upper)):
            break
        point = new
    share = point.dual / upper
    free = (share > point.low) & (1 - share > point.high)
    return Point(point.dual, point.intercept, free, ~free & (share > 0.5))


def _gap(point: Iterate, upper: np.ndarray) -> float:
    return float(point.dual @ point.low + (upper - point.dual) @ point.high) / (2 * len(upper))


def _after(point: Iterate, quadratic: np.ndarray, upper: np.ndarray, signs: np.ndarray) -> Iterate:
    """The next iterate, by a predictor and a corrector."""
    with np.errstate(all="ignore"):  # the last steps divide by zero, and are then not taken
        to, none = _newton(point, quadratic, upper, signs), np.zeros_like(upper)
        affine, gap = to(none, none), _gap(point, upper)
        ahead = _moved(point, affine, _longest(point, affine, upper))
        centre = (_gap(ahead, upper) / gap) ** 3 * gap
        step = to(centre - affine.dual * affine.low, centre + affine.dual * affine.high)
        return _moved(point, step, _longest(point, step, upper))


def _newton(
    point: Iterate, quadratic: np.ndarray, upper: np.ndarray, signs: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], Iterate]:
    """The map from the aimed products of duals and multipliers to the Newton step; one factor serves both steps."""
    room = upper - point.dual
    stationarity = quadratic @ point.dual - 1 - point.low + point.high + point.intercept * signs
    factor = cho_factor(quadratic + np.diag(point.low / point.dual + point.high / room))
    across = cho_solve(factor, signs)

    def to(low_aim: np.ndarray, high_aim: np.ndarray) -> Iterate:
        right = -stationarity + low_aim / point.dual - point.low - high_aim / room + point.high
        along = cho_solve(factor, right)
        moved = float((signs @ along + signs @ point.dual) / (signs @ across))
        step = along - moved * across
        low = (low_aim - point.low * step) / point.dual - point.low
        high = (high_aim + point.high * step) / room - point.high
        return Iterate(step, low, high, moved)

    return to


def _moved(point: Iterate, step: Iterate, size: float) -> Iterate:
    return Iterate(
        point.dual + size * step.dual,
        point.low + size * step.low,
        point.high + size * step.high,
        point.intercept + size * step.intercept,
    )


def _longest(point: Iterate, step: Iterate, upper: np.ndarray) -> float:
    """The longest part of a step that stays within the borders."""
    pairs = ((point.dual, step.dual), (upper - point.dual, -step.dual), (point.low, step.low), (point.high, step.high))
    ways = [np.min(-value[change < 0] / change[change < 0], initial=np.inf) for value, change in pairs]
    return min(1.0, BACK * float(min(ways)))
