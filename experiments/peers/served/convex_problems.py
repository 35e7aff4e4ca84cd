"""The problems of `experiments.peers.convex_layers`, stated in CVXPY for our process and for the peer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cvxpy
import numpy as np


class Stated(NamedTuple):
    """A disciplined parametrised problem, with its parameters and its variable."""

    problem: cvxpy.Problem
    parameters: list[cvxpy.Parameter]
    variable: cvxpy.Variable


def nonnegative_least_squares(samples: int, n: int) -> Stated:
    """min ||A x - b||^2 with x >= 0 and sum(x) <= 1: a quadratic program."""
    x, A, b = cvxpy.Variable(n), cvxpy.Parameter((samples, n), name="A"), cvxpy.Parameter(samples, name="b")
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(A @ x - b)), [x >= 0, cvxpy.sum(x) <= 1])
    return Stated(problem, [A, b], x)


def robust_fit(samples: int, n: int) -> Stated:
    """min ||A x - b|| + 0.1 sum |x| with ||x|| <= 1: a cone program with two second-order cones."""
    x, A, b = cvxpy.Variable(n), cvxpy.Parameter((samples, n), name="A"), cvxpy.Parameter(samples, name="b")
    objective = cvxpy.norm(A @ x - b) + 0.1 * cvxpy.norm1(x)
    return Stated(cvxpy.Problem(cvxpy.Minimize(objective), [cvxpy.norm(x) <= 1]), [A, b], x)


PROBLEMS: dict[str, Callable[[int, int], Stated]] = {
    "nonnegative least squares": nonnegative_least_squares,
    "robust fit": robust_fit,
}


def data(batch: int, samples: int, n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A (batch, samples, n), b (batch, samples), and the weights of the solutions in the loss."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((batch, samples, n)) / np.sqrt(samples)
    truth = rng.standard_normal((batch, n)) / np.sqrt(n)
    b = np.einsum("lmn,ln->lm", A, truth) + 0.3 * rng.standard_normal((batch, samples))
    return {"A": A, "b": b, "towards": rng.standard_normal((batch, n))}
