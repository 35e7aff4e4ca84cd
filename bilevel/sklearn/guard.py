"""The guard: many unknowns overfit the folds, so nested folds say how far to go, and whether to go at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bilevel.sklearn import descent
from bilevel.sklearn.descent import Objective, Step
from bilevel.sklearn.folds import Data, Folds, has_rows
from bilevel.sklearn.lanes import Lanes
from bilevel.sklearn.problems import problem_of
from bilevel.sklearn.space import Space
from bilevel.sklearn.statements import Kind

STRENGTHS = (1e-2, 3e-3, 1e-3, 3e-4)  # strengths of the shrinkage, as shares of the loss of the best single value
LONGEST = 15  # outer steps on nested folds


class Verdict(NamedTuple):
    """The advice of the nested folds: how strongly to shrink, how many steps to go, or to stay at the single value."""

    accepted: bool
    shrinkage: float
    steps: int
    gain: float  # the mean decrease of the held-out loss against the best single value
    error: float  # its standard error over the folds

    def sentence(self) -> str:
        size = f"the held-out loss of nested folds falls by {self.gain:.3g} with a standard error of {self.error:.2g}"
        if self.accepted:
            return (
                f"Kept separate values, shrunk to their mean with strength {self.shrinkage:.2g} and stopped after at "
                f"most {self.steps} steps, because {size}."
            )
        return f"Kept the best single value, because with separate values {size}, which is not beyond it."


Score = Callable[[int, Lanes, Folds], float]  # a score of the held-out lane on its validation rows: lower is better


def held_out(lane: int, lanes: Lanes, folds: Folds) -> float:
    """The loss of the estimator on the held-out rows."""
    return float(lanes.values[lane])


def verdict(kind: Kind, space: Space, folds: Folds, data: Data, best: Step, score: Score = held_out) -> Verdict:
    """Each fold in turn is held out; the others choose the single value and the separate ones, at each strength of
    the shrinkage. The strength and the number of steps with the lowest mean held-out loss win, if they gain more than
    one standard error over the folds against the single value."""
    strengths = np.array(STRENGTHS) * best.loss
    gains = np.array(
        [_gains(kind, space, folds, lane, data, best, strengths, score) for lane in range(len(folds.train))]
    )
    mean = np.mean(gains, axis=0)
    strongest, steps = np.unravel_index(np.argmax(mean), mean.shape)
    own = gains[:, strongest, steps]
    error = float(np.std(own, ddof=1) / np.sqrt(len(own)))
    gain = float(mean[strongest, steps])
    return Verdict(gain > error, float(strengths[strongest]), int(steps) + 1, gain, error)


def _gains(
    kind: Kind,
    space: Space,
    folds: Folds,
    lane: int,
    data: Data,
    best: Step,
    strengths: np.ndarray,
    score: Score,
) -> np.ndarray:
    """The decrease of the held-out loss of one fold, by strength and step."""
    nested = folds.among(lane, data)
    used = np.array([has_rows(*weights, data) for weights in zip(nested.train, nested.validation, strict=True)])
    used[lane] = False
    problem = problem_of(kind, nested, data.targets, used)
    objective = Objective(problem, space)
    common = np.array([np.mean(part) for part in space.split(best.u)])
    base = descent.single(objective, False, LONGEST, common)
    reached, start = score(lane, base.lanes, nested), base.u
    gains = np.zeros((len(strengths), LONGEST))
    for number, strength in enumerate(strengths):
        objective = Objective(problem, space, float(strength))
        descent.many(objective, start, LONGEST)
        scores = [score(lane, step.lanes, nested) for step in objective.path[:LONGEST]] or [reached]
        scores += [scores[-1]] * (LONGEST - len(scores))
        gains[number] = reached - np.array(scores)
    return gains
