"""The implicit hypergradient, solved as accurately as the outer step needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Carry, Engine, Point, Report, check_policy, cold_start, settings, traced
from bilevel.engines.implicit_function.implicit import Implicit, as_float
from bilevel.engines.implicit_function.tolerances import ErrorDriven, Evidence, Schedule, Tolerances
from bilevel.foundation import trees
from bilevel.foundation.settings import changed
from bilevel.foundation.typing import Counts, HParams, Params, PyTree, Scalar
from bilevel.linear_solve import Preconditioner
from bilevel.solvers import Outcome
from bilevel.task import Task


class Round(NamedTuple):
    """Both solves at some tolerances, and their results."""

    start: Params  # the start of the next inner solve
    adjoint: PyTree  # the start of the next adjoint solve
    inverse: Preconditioner | None  # an approximate inverse of its system
    tolerances: Tolerances
    result: tuple[Scalar, HParams, Report]
    number: jax.Array
    done: jax.Array


@settings
@dataclass(frozen=True)
class Adaptive(Engine):
    """``engine`` with tolerances that follow the outer progress, by ``schedule``.

    The tolerances of the inner solver and of ``engine.linear_solve`` are the finest that are used; the schedule starts
    from looser ones. They are traced values, kept in the carry: nothing is compiled again. A gradient that the schedule
    finds too inaccurate is computed again from the point where both solves stopped, ``rounds`` times at most.
    ``report.inner_tol`` and ``adjoint_tol`` are the tolerances used; steps and counts add up all rounds.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> task = bl.Task(
    ...     inner=bl.InnerProblem(loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
    ...                           init=lambda key, h: jnp.zeros(()), solver=bl.GradientDescent()),
    ...     outer_loss=lambda w, h, batch: 0.5 * (w - batch) ** 2, init_hparams=lambda key: jnp.zeros(()),
    ...     batches=bl.full_batch(4.0, 1.0))
    >>> value, grad, report = bl.hypergradient(task, jnp.array(0.0), bl.Adaptive(schedule=bl.ErrorDriven()))
    >>> bool(abs(grad + 1.0) < 0.2), bool(report.inner_tol > 1e-3)
    (True, True)
    """

    engine: Implicit = traced(Implicit())
    schedule: Schedule = traced(ErrorDriven())
    rounds: int = 8
    on_failure: str = "raise"
    adapts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.on_failure)
        if self.rounds < 1:
            raise ValueError(f"bl.Adaptive(rounds={self.rounds}): a gradient takes at least one round.")

    def first_carry(self, task: Task, point: Point) -> Carry:
        return self.engine.first_carry(task, point)._replace(memory=self.schedule.begin())

    def harder(self) -> Iterator[tuple[str, Engine]]:
        for name, engine in self.engine.harder():
            assert isinstance(engine, Implicit)
            yield name, replace(self, engine=engine)

    def longer(self, factor: int) -> Engine:
        return replace(self, engine=self.engine.longer(factor))

    def finest(self, carry: Carry) -> Carry:
        zero = jnp.zeros_like(carry.memory.inner)
        return carry._replace(memory=carry.memory._replace(inner=zero, adjoint=zero, steps=jnp.int32(0)))

    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        cold = cold_start(task, point)
        warm = task.warm_start
        adjoint = carry.adjoint if warm and self.engine.warm_start else jax.tree.map(jnp.zeros_like, carry.adjoint)
        finest = self._finest(task)

        def advance(last: Round) -> Round:
            return self._round(task, point, last, cold, finest)

        nothing = jax.eval_shape(lambda last: self._result(task, point, last, cold, finest)[0], _start(carry))
        begin = Round(
            carry.params if warm else cold,
            adjoint,
            carry.inverse if warm else jax.tree.map(jnp.zeros_like, carry.inverse),
            carry.memory,
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing),
            jnp.int32(0),
            jnp.bool_(False),
        )
        end = jax.lax.while_loop(lambda last: ~last.done & (last.number < self.rounds), advance, begin)
        value, grad, report = end.result
        return value, grad, replace(report, carry=Carry(end.start, end.adjoint, end.tolerances, end.inverse))

    def _finest(self, task: Task) -> Tolerances:
        """The tolerances that the user set, which are the finest."""
        start = self.schedule.begin()
        inner, adjoint = as_float(task.inner.solver.tol), as_float(self.engine.linear_solve.tol)
        return start._replace(inner=inner, adjoint=jnp.where(jnp.isnan(adjoint), jnp.inf, adjoint))

    def _round(self, task: Task, point: Point, last: Round, cold: Params, finest: Tolerances) -> Round:
        """One more solve of both systems, from the end of the last."""
        (value, grad, report), fresh = self._result(task, point, last, cold, finest)
        evidence = Evidence(
            inner_residual=report.inner_residual,
            adjoint_residual=report.adjoint_residual,
            inner_error=report.error_inner * _caution(report),
            adjoint_error=report.error_adjoint,
            fresh=fresh,
            size=trees.norm(grad),
        )
        done, tolerances = self.schedule.judge(last.tolerances, finest, evidence)
        report = _added(report, last.result[2])
        return Round(
            report.carry.params,
            report.carry.adjoint,
            report.carry.inverse,
            tolerances,
            (value, grad, report),
            last.number + 1,
            done | ~report.status.ok,
        )

    def _result(
        self, task: Task, point: Point, last: Round, cold: Params, finest: Tolerances
    ) -> tuple[tuple[Scalar, HParams, Report], jax.Array]:
        """The gradient at the tolerances of a round, and whether its error was estimated for the schedule."""
        inner_tol, adjoint_tol = (
            jnp.maximum(tol, least).astype(tol.dtype)
            for tol, least in zip(last.tolerances[:2], finest[:2], strict=True)
        )
        solver = changed(task.inner.solver, tol=inner_tol)
        task = task.with_solver(solver)
        engine = replace(self.engine, linear_solve=self.engine.linear_solve.with_tol(adjoint_tol))
        outcome = task.inner.run(point.hparams, point.inner_batch, last.start, cold)

        def by(engine: Implicit, outcome: Outcome, *start: PyTree) -> tuple[Scalar, HParams, Report]:
            value, grad, report = engine.at_solution(task, point, outcome, *start)
            return value, grad, report.uniform()

        if self.engine.accuracy != "estimate":
            return by(engine, outcome, last.adjoint, last.inverse), jnp.bool_(True)
        due = self.schedule.due(last.tolerances) & (last.number == 0)
        plain = replace(engine, accuracy="residual")
        result = jax.lax.cond(
            due,
            lambda *args: by(engine, *args),
            lambda *args: by(plain, *args),
            outcome,
            last.adjoint,
            last.inverse,
        )
        return result, due


def _start(carry: Carry) -> Round:
    return Round(carry.params, carry.adjoint, carry.inverse, carry.memory, (), jnp.int32(0), jnp.bool_(False))  # type: ignore[arg-type]  # no result yet


def _caution(report: Report) -> jax.Array:
    """1 / (1 - theta): the factor for the Newton steps after the first, each of which reduces the residual by theta."""
    theta = jnp.where(jnp.isnan(report.theta), 0, report.theta)
    return 1 / jnp.where(theta < 1, 1 - theta, jnp.finfo(theta.dtype).eps)


def _added(report: Report, before: Report) -> Report:
    """The report with the work of the rounds before."""
    counts: Counts = report.counts.add(before.counts)
    return replace(
        report,
        inner_steps=report.inner_steps + before.inner_steps,
        adjoint_steps=report.adjoint_steps + before.adjoint_steps,
        counts=counts.as_arrays(),
    )
