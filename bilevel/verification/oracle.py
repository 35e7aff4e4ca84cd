"""The truth about a hypergradient, independent of the engine that is judged: differences, and a dense solve."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.engines import Carry, Implicit
from bilevel.engines.hypergradients import hypergradient
from bilevel.foundation.compilation import Program
from bilevel.foundation.status import Status
from bilevel.foundation.typing import HParams, Key
from bilevel.linear_solve import Dense
from bilevel.task import Task

MANY = 64  # up to so many hyperparameters all partial derivatives, beyond that the slopes along so many directions
STEPS = {"float64": 1e-3, "float32": 3e-2}  # the fifth root of the precision, best for differences of fourth order
TIGHT = {"float64": 1e-12, "float32": 1e-6}  # tight, because differences divide the error of a solve by the step
AGREEMENT = {"float64": 1e-7, "float32": 1e-3}  # relative, beyond the uncertainty of the differences
LONGER = 10  # times as many steps as the task's own solver


class Oracle(NamedTuple):
    """The slopes of the outer loss along orthonormal directions, with their evidence."""

    directions: np.ndarray  # (number, hyperparameters)
    slopes: np.ndarray  # (number,)
    uncertainty: float  # of the slopes, a norm
    differences: np.ndarray  # the slopes by differences
    spread: float  # their uncertainty, a norm
    confirmed: bool  # whether the dense solve agrees with the differences; ``slopes`` are then the dense ones
    apart: float  # their distance from the dense solve's, a norm
    solved: Status  # the worst inner solve behind the differences
    carry: Carry  # inner solution and adjoint of the dense solve

    @property
    def scale(self) -> float:
        """The norm of the slopes, nowhere zero."""
        return max(float(np.linalg.norm(self.slopes)), self.uncertainty, math.ulp(0.0))

    def error(self, grad: HParams) -> float:
        """The norm of the error of a gradient along the directions."""
        flat = np.asarray(ravel_pytree(grad)[0], float)
        return float(np.linalg.norm(self.directions @ flat - self.slopes))


def oracle_of(task: Task, hparams: HParams, key: Key) -> Oracle:
    """Central differences of fourth order of the outer loss at tightly solved inner problems, and the implicit gradient
    with a dense factorisation there.

    The uncertainty of the differences is their distance from differences of second order. Where both ways agree, the
    dense slopes are the truth, because they are more precise; else the differences are.
    """
    solver: Any = task.inner.solver
    tight = replace(solver, tol=TIGHT[task.precision], max_steps=LONGER * solver.max_steps)
    task = task.with_solver(tight)
    flat, _ = ravel_pytree(hparams)
    directions = orthonormal(flat.size)
    differences, spread, solved = by_differences(task, hparams, directions, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = Implicit(linear_solve=Dense(), on_failure="warn")
        _, grad, report = hypergradient(task, hparams, engine, key=key)
    slopes = directions @ np.asarray(ravel_pytree(grad)[0], float)
    apart = float(np.linalg.norm(slopes - differences))
    allowed = AGREEMENT[task.precision] * float(np.linalg.norm(differences)) + spread
    if apart <= allowed:
        claimed = float(report.error_estimate) if report.error_grade == "estimate" else spread
        return Oracle(directions, slopes, min(claimed, spread), differences, spread, True, apart, solved, report.carry)
    return Oracle(directions, differences, spread, differences, spread, False, apart, solved, report.carry)


def by_differences(task: Task, hparams: HParams, directions: np.ndarray, key: Key) -> tuple[np.ndarray, float, Status]:
    """The slopes along the directions, how uncertain they are, and the worst status of an inner solve."""
    flat, unravel = ravel_pytree(hparams)
    inner_batch, outer_batch = task.batches(key, 0)
    step = STEPS[task.precision]

    def value(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = unravel(point)
        cold = task.inner.cold_start(key, moved, inner_batch)
        outcome = task.inner.run(moved, inner_batch, cold, cold)
        return task.outer(outcome.params, moved, outer_batch), outcome.status.code

    lengths = step * np.array([1.0, -1.0, 2.0, -2.0])
    points = flat + jnp.asarray(lengths[None, :, None] * directions[:, None, :], flat.dtype)
    values, codes = Program(lambda points: jax.lax.map(value, points))(points.reshape(-1, flat.size))
    table = np.asarray(values, float).reshape(len(directions), 4)
    near = (table[:, 0] - table[:, 1]) / (2 * step)
    far = (table[:, 2] - table[:, 3]) / (4 * step)
    fine = (4 * near - far) / 3
    return fine, float(np.linalg.norm(fine - near)), Status(jnp.max(codes))


def orthonormal(size: int) -> np.ndarray:
    """The unit vectors, or random orthonormal directions where there are many.

    >>> orthonormal(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if size <= MANY:
        return np.eye(size)
    return np.linalg.qr(np.random.default_rng(0).normal(size=(size, MANY // 4)))[0].T
