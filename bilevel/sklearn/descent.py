"""The outer search: the mean loss on the folds as a function of the unknowns, and its minimisation.

The outer loop is SciPy's L-BFGS-B and not `bl.Trainer`, because the loss on the folds is a deterministic function of
a few bounded unknowns: a quasi-Newton method with a line search takes 10 evaluations where a first-order optimiser
takes 100. Inner solves and hypergradients are the library's (`lanes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from bilevel.sklearn.lanes import Lanes, Problem
from bilevel.sklearn.space import Space

SCANNED = 5  # single values tried before the descent, because the loss may have several minima
SETTLED = 1e-7  # a smaller relative decrease of the loss ends the descent: the loss is then within 1e-5 of its minimum
LEVEL = 1e-6  # a gradient is taken for zero whose largest entry is below this, relative to the loss
FAILED = 1e10  # stands for the loss where a solve failed, so that the line search comes back


class Step(NamedTuple):
    """One evaluation."""

    u: np.ndarray
    loss: float  # the mean over the active lanes
    objective: float  # with the shrinkage
    gradient: np.ndarray  # of the objective
    lanes: Lanes
    seconds: float


@dataclass
class Objective:
    """mean over lanes of the validation loss + shrinkage/2 sum_j (u_j - centre)^2; the centre is each parameter's mean.

    Every `Step` is kept, and the steps that end an iteration of the descent also in ``path``.
    """

    problem: Problem
    space: Space
    shrinkage: float = 0.0
    verbose: int = 0
    steps: list[Step] = field(default_factory=list)
    path: list[Step] = field(default_factory=list)

    def at(self, u: np.ndarray) -> Step:
        began = time.perf_counter()
        lanes, used = self.problem(self.space.penalties(u)), self.problem.used
        gradients = {name: np.mean(one[used], axis=0) for name, one in lanes.gradients.items()}
        loss, gradient = float(np.mean(lanes.values[used])), self.space.pullback(u, gradients)
        away = np.concatenate([part - np.mean(part) for part in self.space.split(u)])
        objective = loss + 0.5 * self.shrinkage * float(away @ away)
        seconds = time.perf_counter() - began
        step = Step(u, loss, objective, gradient + self.shrinkage * away, lanes, seconds)
        self.steps.append(step)
        if self.verbose:
            print(f"step {len(self.steps)}: loss {loss:.6g}, |gradient| {np.linalg.norm(step.gradient):.3g}")
        return step

    def failed(self, step: Step) -> bool:
        finite = np.isfinite(step.objective) and bool(np.all(np.isfinite(step.gradient)))
        return bool(np.any(step.lanes.failed[self.problem.used])) or not finite


def single(objective: Objective, scan: bool, max_iter: int, start: np.ndarray | None = None) -> Step:
    """The best point where all unknowns of a parameter are equal."""
    space = objective.space
    ends = [(one.low, one.high) for one in space.parameters]
    begin = np.array([one.start for one in space.parameters]) if start is None else start
    known: dict[bytes, Step] = {}
    if scan:
        trials = [begin.copy() for _ in range(SCANNED)]
        for trial, place in zip(trials, np.linspace(0.1, 0.9, SCANNED), strict=True):
            trial[0] = (1 - place) * ends[0][0] + place * ends[0][1]
        found = [objective.at(space.tied(trial)) for trial in trials]
        losses = [np.inf if objective.failed(step) else step.loss for step in found]
        begin = trials[int(np.argmin(losses))]
        known = {begin.tobytes(): found[int(np.argmin(losses))]}
    return _descend(objective, begin, np.array(ends), max_iter, space.tied, space.summed, known)


def many(objective: Objective, start: np.ndarray, max_iter: int) -> Step:
    """The point that a descent in all unknowns reaches."""
    same = lambda u: u
    return _descend(objective, start, objective.space.bounds, max_iter, same, same, {})


def _descend(
    objective: Objective,
    start: np.ndarray,
    bounds: np.ndarray,
    max_iter: int,
    spread: Callable[[np.ndarray], np.ndarray],
    summed: Callable[[np.ndarray], np.ndarray],
    known: dict[bytes, Step],
) -> Step:
    """The best point of L-BFGS-B, in units in which its first step, which is the gradient, moves by a factor of e.

    ``known``: the steps that need no evaluation, by their point."""
    unit = 0.0

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal unit
        step = known.get(x.tobytes()) or objective.at(spread(x.copy()))
        if objective.failed(step):
            return FAILED, np.zeros_like(x)
        known[x.tobytes()] = step
        gradient = summed(step.gradient)
        unit = unit or max(np.max(np.abs(gradient)), LEVEL * abs(step.objective))
        return step.objective / unit, gradient / unit

    def follow(x: np.ndarray) -> None:
        if x.tobytes() in known:
            objective.path.append(known[x.tobytes()])

    options = {"maxiter": max_iter, "ftol": SETTLED, "gtol": 1e-9}
    minimize(
        evaluate,
        np.clip(start, *bounds.T),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=follow,
        options=options,
    )
    if not known:
        raise FloatingPointError("no evaluation of the fold loss ended well")
    return min(known.values(), key=lambda step: step.objective)
