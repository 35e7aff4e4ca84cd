"""An approximate inverse of the linear system, from the inner solver or from the last adjoint solve."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point
from bilevel.foundation import trees
from bilevel.foundation.typing import Params
from bilevel.linear_solve import LBFGSPairs, LinearSolver, Preconditioner
from bilevel.solvers import Outcome
from bilevel.task import Task


def nothing_known(task: Task, point: Point, cold: Params) -> Preconditioner | None:
    """The approximate inverse of an inner solver before its first step; None for a solver that never has one."""
    instance = task.inner.at(point.hparams, point.inner_batch)
    solver, _ = task.inner.solver.choose(instance, cold)
    shapes = jax.eval_shape(lambda w: solver.approximate_inverse(instance, solver.init(instance, w)), cold)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def of_inner_solver(task: Task, point: Point, outcome: Outcome, known: Preconditioner | None) -> Preconditioner | None:
    """The approximate inverse of the inner solver; ``known``, the one from before, where the solver took no step."""
    instance = task.inner.at(point.hparams, point.inner_batch)
    solver, _ = task.inner.solver.choose(instance, outcome.params)
    inverse = solver.approximate_inverse(instance, outcome.state)
    return inverse if inverse is None or known is None else trees.select(outcome.steps > 0, inverse, known)


def recycling(linear_solve: LinearSolver, known: Preconditioner | None, directions: int) -> LinearSolver:
    """The solver preconditioned by the approximate inverse, which returns ``directions`` more; ValueError where it
    cannot."""
    informed = linear_solve.reusing(LBFGSPairs.empty((), directions) if known is None else known)
    remembering = informed.remembering(directions)
    if informed is linear_solve or remembering is informed:
        raise ValueError(
            f"bl.Implicit(recycle={directions}) preconditions conjugate gradients by their last directions, and "
            f"{linear_solve} takes none, or has a preconditioner of its own. Use bl.CG() or bl.AutoLinear()."
        )
    return remembering if known is not None else linear_solve.remembering(directions)


def joined(known: Preconditioner | None, found: Preconditioner | None) -> Preconditioner | None:
    """The newest directions of both."""
    if isinstance(known, LBFGSPairs) and isinstance(found, LBFGSPairs):
        return known.followed_by(found)
    return known
