"""The exact dual of a support vector machine, from a point nearby."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bilevel.sklearn.interior import Point, interior_point

WRONG = 1e-6  # in units of a margin: a point with a larger residual of the optimality conditions is no solution
SLACK = 1e-9  # in units of a margin: a smaller violation changes no set, because rounding may cause it
ROUNDS = 30  # of changes of the sets; mostly one or two are enough
RIDGE = 1e-9  # on the free block, relative to the kernel's diagonal: repeated rows make that block singular
REFINED = 4  # rounds of refinement, each of which multiplies the bias of the ridge by about `RIDGE`
EXACT = 1e-15  # a relative residual that refinement does not lower

Solve = Callable[[np.ndarray], np.ndarray]


class Settled(NamedTuple):
    """A point, the solution of its linear system, the size of the last Newton step, and the largest violation of the
    optimality conditions in units of a margin."""

    point: Point
    solve: Solve
    step: float
    residual: float


def exact(own: np.ndarray, upper: np.ndarray, signs: np.ndarray, start: Point) -> Settled:
    """The exact point from LIBSVM's, or from that of the interior-point method where LIBSVM's is too far away.

    ``own`` is the kernel on the training rows."""
    found = settled(own, upper, signs, start)
    if not found.residual < WRONG:
        again = settled(own, upper, signs, interior_point(own, upper, signs))
        found = again if again.residual < found.residual else found
    return found


def settled(own: np.ndarray, upper: np.ndarray, signs: np.ndarray, point: Point) -> Settled:
    """The exact point: duals at their ends whose rows violate the margin become free, and free ones that leave their
    interval stop at its end, until none does (Hintermueller et al., 2002).

    LIBSVM keeps its kernel in single precision, so its point is within a rounding of that."""
    found, margins = _on(own, upper, signs, point)
    for _ in range(ROUNDS):
        free, top, duals = point.free, point.top, found.point.duals
        violated = np.where(top, margins, -margins) > SLACK
        low, high = free & (duals < 0), free & (duals > upper)
        if not np.any(low | high | (violated & ~free)):
            break
        point = found.point._replace(free=(free & ~low & ~high) | (~free & violated), top=(top & ~violated) | high)
        found, margins = _on(own, upper, signs, point)
    return found


def _on(own: np.ndarray, upper: np.ndarray, signs: np.ndarray, point: Point) -> tuple[Settled, np.ndarray]:
    """The point that these sets of duals determine, and its margins less 1."""
    free, top = point.free, point.top
    duals = np.where(top, upper, np.where(free, point.duals, 0))
    if np.any(free):
        solve = _system(own[np.ix_(free, free)])
        duals, intercept, step = _newton(own, signs, duals, point, solve)
        total = abs(float(signs @ duals)) / np.max(upper)
    else:
        asked = (signs - own @ (signs * duals))[ends(own, signs, point._replace(duals=duals))]
        solve, intercept, step, total = _nothing, 0.5 * float(np.sum(asked)), 0.0, 0.0
    margins = signs * (own @ (signs * duals) + intercept) - 1
    wrong = np.where(free, np.abs(margins), np.maximum(np.where(top, margins, -margins), 0))
    outside = np.maximum(np.maximum(-duals, duals - upper), 0) / np.max(upper)
    residual = float(max(np.max(wrong), np.max(outside), total))
    settled = Settled(Point(duals, intercept, free, top), solve, step, residual if np.isfinite(residual) else np.inf)
    return settled, margins


def _nothing(right: np.ndarray) -> np.ndarray:
    return right


def _system(block: np.ndarray) -> Solve:
    """The solution of [[K_FF, 1], [1', 0]] x = right, with a ridge on the block whose bias is refined away.

    Free duals are not unique where rows repeat, or where there are more of them than columns of a linear kernel. The
    predictions are unique and the right sides consistent, so any solution gives the same gradient."""
    count = len(block)
    matrix = np.ones((count + 1, count + 1))
    matrix[:count, :count], matrix[-1, -1] = block, 0
    ridge = RIDGE * (float(np.max(np.diag(block))) or 1.0)
    inverse = np.linalg.inv(matrix + np.diag(np.append(np.full(count, ridge), 0)))

    def solve(right: np.ndarray) -> np.ndarray:
        found, left = np.zeros_like(right), right
        for _ in range(1 + REFINED):
            found = found + inverse @ left
            left = right - matrix @ found
            if np.linalg.norm(left) <= EXACT * np.linalg.norm(right):
                break
        return found

    return solve


def _newton(
    own: np.ndarray, signs: np.ndarray, duals: np.ndarray, point: Point, solve: Solve
) -> tuple[np.ndarray, float, float]:
    """Two steps of Newton's method on the free duals and the intercept, and the size of the second."""
    coefficients, intercept, size = signs * duals, point.intercept, 0.0
    for _ in range(2):
        away = signs - own @ coefficients - intercept
        step = solve(np.append(away[point.free], -np.sum(coefficients)))
        coefficients = coefficients.copy()
        coefficients[point.free] += step[:-1]
        intercept, size = intercept + float(step[-1]), float(np.linalg.norm(step))
    return signs * coefficients, intercept, size


def ends(own: np.ndarray, signs: np.ndarray, point: Point) -> np.ndarray:
    """Where no dual is free, any intercept of an interval is equally good, and LIBSVM takes its middle: the rows that
    its two ends belong to."""
    asked = signs - own @ (signs * point.duals)
    below = (signs > 0) ^ point.top
    low, high = np.argmax(np.where(below, asked, -np.inf)), np.argmin(np.where(below, np.inf, asked))
    return np.array([low, high])
