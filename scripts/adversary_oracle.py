"""The outside solver of `scripts/adversary.py`: numpy alone, to the last digits, with exact derivatives.

With F(w) = w - prox(w - s grad f(w)) and J the Jacobian of the prox there, Newton's method solves
(I - J (I - s H)) d = -F, and the same matrix gives dw/dtheta. All derivatives are complex steps. A root is a minimiser
where J^+ - I + s H is positive semidefinite on the range of J: J is (I + s D)^-1 for the curvature D of the nonsmooth
term, so that this is the curvature of the whole objective along the face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

TINY = 1e-30
FARTHEST = 1e4  # times the size of the point: the longest step of the oracle
NAMES = ("ridge", "shift", "weight")


class Root(NamedTuple):
    """A solution as exact as float64 has it."""

    w: np.ndarray
    error: float  # of w, as the last Newton step has it
    condition: float  # of the matrix of the Newton system
    curvature: float  # the least, relative to the largest, along the face: negative at a saddle


@dataclass(eq=False)
class Oracle:
    """One problem: ``slope(w, theta)`` is the gradient of the smooth part, ``prox(v, s, theta)`` of the rest."""

    slope: Callable[..., np.ndarray]
    prox: Callable[..., np.ndarray]
    outer: Callable[..., Any]
    step: float = field(default=1.0)

    def residual(self, w: np.ndarray, theta: np.ndarray) -> np.ndarray:
        return w - self.prox(w - self.step * self.slope(w, theta), self.step, theta)

    def scaled(self, w: np.ndarray, theta: np.ndarray) -> Oracle:
        """The same with the step 1 / ||H||, at which neither F nor its Newton matrix is badly scaled.

        Where the loss is flat, its slope sets the step: a point far outside of the set loses the digits of its
        projection.
        """
        hessian = jacobian(lambda x: self.slope(x, theta), w)
        size = float(np.linalg.norm(hessian, 2)) if np.all(np.isfinite(hessian)) else 0.0
        step, slope = 1 / size if size > 0 else 1.0, float(np.linalg.norm(self.slope(w, theta)))
        if np.isfinite(slope):
            step = min(step, FARTHEST * (1 + float(np.linalg.norm(w))) / max(slope, TINY))
        return Oracle(self.slope, self.prox, self.outer, step)

    def system(self, w: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(I - J (I - s H), J, H)."""
        hessian = jacobian(lambda x: self.slope(x, theta), w)
        v = w - self.step * self.slope(w, theta)
        J = jacobian(lambda x: self.prox(x, self.step, theta), v)
        return np.eye(w.size) - J @ (np.eye(w.size) - self.step * hessian), J, hessian

    def solve(self, start: np.ndarray, theta: np.ndarray, steps: int = 40) -> np.ndarray:
        """Newton's method from ``start``; a step that does not lower the residual becomes proximal gradient steps."""
        w, size = start, np.linalg.norm(self.residual(start, theta))
        for _ in range(steps):
            if not np.isfinite(size) or size < 1e-15 * (1 + np.linalg.norm(w)):
                break
            matrix = self.system(w, theta)[0]
            if not np.all(np.isfinite(matrix)):
                break
            move = np.linalg.lstsq(matrix, -self.residual(w, theta), rcond=1e-14)[0]
            trials = [w + length * move for length in (1.0, 0.5, 0.1)]
            sizes = [np.linalg.norm(self.residual(trial, theta)) for trial in trials]
            best = int(np.argmin(np.nan_to_num(np.array(sizes), nan=np.inf)))
            if sizes[best] < 0.9 * size:
                w, size = trials[best], sizes[best]
            elif size < 1e-11 * (1 + np.linalg.norm(w)):
                break
            else:
                w = self.descend(w, theta)
                size = np.linalg.norm(self.residual(w, theta))
        return w

    def descend(self, w: np.ndarray, theta: np.ndarray, steps: int = 60) -> np.ndarray:
        """Accelerated proximal gradient steps."""
        before = w
        for k in range(steps):
            ahead = w + k / (k + 3) * (w - before)
            before, w = w, ahead - self.residual(ahead, theta)
        return w if np.all(np.isfinite(w)) else before

    def examine(self, w: np.ndarray, theta: np.ndarray) -> Root:
        """What is known of a root."""
        if not np.all(np.isfinite(w)):
            return Root(w, np.inf, np.inf, np.nan)
        matrix, J, hessian = self.system(w, theta)
        if not np.all(np.isfinite(matrix)) or not np.all(np.isfinite(hessian)):
            return Root(w, np.inf, np.inf, np.nan)
        singular = np.linalg.svd(matrix, compute_uv=False)
        if singular[-1] == 0:
            return Root(w, np.inf, np.inf, np.nan)
        error = np.linalg.norm(self.residual(w, theta)) / singular[-1]
        eigenvalues, vectors = np.linalg.eigh((J + J.T) / 2)
        face, kept = vectors[:, eigenvalues > 1e-8], eigenvalues[eigenvalues > 1e-8]
        curvature = np.diag(1 / kept - 1) + self.step * face.T @ hessian @ face
        least = np.linalg.eigvalsh(curvature)[0] if kept.size else np.inf
        return Root(w, float(error), float(singular[0] / singular[-1]), float(least))

    def gradient(self, w: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """d outer(w(theta), theta) / d theta at a root w."""
        matrix = self.system(w, theta)[0]
        by_w = jacobian(lambda x: np.atleast_1d(self.outer(x, theta)), w)[0]
        adjoint = np.linalg.solve(matrix.T, by_w)
        direct = jacobian(lambda x: np.atleast_1d(self.outer(w, x)), theta)[0]
        return direct - adjoint @ jacobian(lambda x: self.residual(w, x), theta)

    def one_sided(self, w: np.ndarray, theta: np.ndarray, width: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
        """The differences of the outer loss forwards and backwards: unequal at a kink, where no derivative is."""
        here = self.outer(w, theta)

        def difference(k: int, sign: float) -> float:
            moved = theta + sign * width * np.eye(theta.size)[k]
            return float(sign * (self.outer(self.solve(w, moved), moved) - here) / width)

        numbers = range(theta.size)
        return np.array([difference(k, 1.0) for k in numbers]), np.array([difference(k, -1.0) for k in numbers])


def jacobian(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> np.ndarray:
    """By complex steps, one a column."""
    columns = [np.imag(function(at + 1j * TINY * row)) / TINY for row in np.eye(at.size)]
    return np.stack(columns, axis=-1)
