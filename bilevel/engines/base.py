"""An engine is a way to the gradient of the outer loss through the inner solution."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.engines import description
from bilevel.foundation.parts import INNER, part
from bilevel.foundation.settings import settings as settings, traced as traced
from bilevel.foundation.status import GRADES, Code, Status
from bilevel.foundation.typing import Batch, Counts, HParams, Key, Params, PyTree, Scalar
from bilevel.linear_solve import Preconditioner
from bilevel.solvers import Outcome
from bilevel.solvers.curvature import order_of
from bilevel.task import Task

POLICIES = ("raise", "warn", "retry", "skip")
NAN: Any = np.float32(np.nan)
UNKNOWN: Any = np.int32(-1)
ZERO: Any = np.int32(0)
FINE: Any = Status(np.int32(Code.converged))  # type: ignore[arg-type]  # no jax.Array: an import starts no backend


class Carry(NamedTuple):
    """The values that one hypergradient hands to the next: the starts of the inner solve (duals included) and of the
    adjoint solve."""

    params: Params
    adjoint: PyTree
    memory: PyTree = ()  # an engine's own: tables, counters, further iterates
    inverse: Preconditioner | None = None  # an approximate inverse of the system, where one is handed on


class Point(NamedTuple):
    """The point of a hypergradient."""

    hparams: HParams
    inner_batch: Batch
    outer_batch: Batch
    key: Key


class Undefined(NamedTuple):
    """Flags of the numbers around a hypergradient that are not finite, although both solves may have ended well."""

    value: jax.Array  # of the outer loss with its prior
    loss: jax.Array  # of the inner problem, at its solution
    gradient: PyTree  # a flag for each leaf of the hyperparameters
    update: PyTree  # a flag for each leaf of the hyperparameters after the optimiser's step


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The report on a hypergradient.

    Residuals are relative: ||F(w)|| / ||F(init)|| of the inner solve, ||v - A'u|| / ||v|| of the adjoint (through the
    steps of a solver: the part of v that is left at their start). ``status`` is the worst of the two and of
    ``outer_status``, which is nonfinite where both solves ended well and the outer loss, its gradient or the
    optimiser's update is not a finite number (``undefined`` says which). ``error_estimate`` estimates the norm of the
    error of the returned gradient, and ``error_grade`` says with which claim: "bound" (a theorem), "estimate" (a Newton
    correction in its regime of validity), "residual" (an order of magnitude, no claim; infinite where nothing is known,
    as of a bias by design). A figure that was not asked for, or does not apply, is NaN (a count is -1).
    """

    inner_residual: jax.Array
    inner_steps: jax.Array
    inner_status: Status
    adjoint_residual: jax.Array
    adjoint_steps: jax.Array
    adjoint_status: Status
    error_estimate: jax.Array
    error_inner: jax.Array  # the part of the error that the inner solve causes
    error_adjoint: jax.Array  # the part that the adjoint solve causes
    grade: jax.Array  # an index into GRADES
    counts: Counts
    params: Params
    carry: Carry
    theta: jax.Array = NAN  # the residual's ratio after a Newton correction; the estimate is claimed up to 0.1
    margin: jax.Array = NAN  # distance of the solution from the next face, in the units of the mapping
    weakly_active: jax.Array = UNKNOWN  # coordinates that the error of the solution may move to the next face
    condition: jax.Array = NAN  # a lower estimate of the condition number of the (reduced) linear system
    inner_tol: jax.Array = NAN  # the tolerances of the two solves
    adjoint_tol: jax.Array = NAN
    retries: jax.Array = ZERO  # the attempts of "retry" before this result
    curvature: jax.Array = NAN  # the least at the inner solution, relative to the largest; 0 where none is negative
    skipped: jax.Array = ZERO  # 1 where ``on_failure="skip"`` discarded this result
    outer_status: Status = FINE
    undefined: Undefined | None = None  # None: not examined, as inside an engine

    def __repr__(self) -> str:
        return description.line(self)

    def describe(self) -> str:
        """How good the gradient is and why, in one paragraph."""
        return description.paragraph(self)

    @property
    def solved(self) -> Status:
        """The worse of the two solves."""
        return self.inner_status.worse(self.adjoint_status)

    @property
    def status(self) -> Status:
        return self.solved.worse(self.outer_status)

    def uniform(self) -> Report:
        """The report with every field an array, because branches and loops carry nothing else."""
        asked = ("error_estimate", "error_inner", "error_adjoint", "theta", "margin", "condition")
        figures = {name: jnp.asarray(getattr(self, name), jnp.result_type(float)) for name in asked}
        unknown = jnp.asarray(self.weakly_active, jnp.int32)
        return jax.tree.map(
            jnp.asarray, replace(self, **figures, weakly_active=unknown, counts=self.counts.as_arrays())
        )

    @property
    def order(self) -> str:
        """Whether the curvature of the inner solution was examined: "second order", or "first order"."""
        return order_of(self.curvature)

    @property
    def error_grade(self) -> str:
        """The grade in words; of a batch, the weakest."""
        return GRADES[int(np.min(np.asarray(self.grade)))]


class Engine(abc.ABC):
    """A hypergradient estimator. Abstract; the subclasses are final frozen dataclasses, compared by value."""

    on_failure: str
    stochastic: ClassVar[bool] = False  # whether it approaches the hypergradient over outer steps, by its carry
    biased: ClassVar[bool] = False  # whether a stochastic engine misses it even at the solution, by design
    adapts: ClassVar[bool] = False  # whether its tolerances follow the outer progress: a first gradient may be loose
    chooses: ClassVar[bool] = False  # whether `choose` has to be asked which engine does the work
    through_steps: ClassVar[bool] = False  # whether it differentiates the steps of the solver, from its start on
    differentiable: ClassVar[bool] = False  # whether a derivative of its result is a derivative of the hypergradient
    remedy: ClassVar[str] = ""  # the remedy when this engine's solves fail, where the status alone does not tell it

    @abc.abstractmethod
    def hypergradient(self, task: Task, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        """The outer loss, its gradient in hparams, and the report. Pure: lives inside jit, never raises on values."""

    @abc.abstractmethod
    def first_carry(self, task: Task, point: Point) -> Carry:
        """The carry of a cold start."""

    def choose(self, task: Task, point: Point) -> tuple[Engine, str]:
        """The engine that does the work, and the reason: itself, unless it chooses among others. Values are concrete
        here."""
        return self, "chosen by hand"

    def advice(self, code: Code) -> str:
        """This engine's own remedy for an inner solve that ended with this code; "" where it has none."""
        return ""

    def longer(self, factor: int) -> Engine:
        """The engine with so many times the steps for its linear solver; itself where it has none."""
        return self

    def harder(self) -> Iterator[tuple[str, Engine]]:
        """The engines, by name, that ``on_failure="retry"`` tries in turn after more inner steps."""
        yield from ()

    def finest(self, carry: Carry) -> Carry:
        """The carry that asks for the most accurate solves: an engine that ``adapts`` uses its finest tolerances."""
        return carry


def check_policy(on_failure: str) -> None:
    if on_failure not in POLICIES:
        raise ValueError(f"on_failure={on_failure!r} is not one of {', '.join(POLICIES)}.")


def cold_start(task: Task, point: Point) -> Params:
    return task.inner.cold_start(point.key, point.hparams, point.inner_batch)


def refuse_training(engine: Engine, task: Task) -> None:
    """The refusal of the engines that differentiate a solution."""
    if steps := task.inner.solver.budget:
        solver = f"bl.{type(task.inner.solver).__name__}(steps={steps})"
        raise ValueError(
            f"bl.{type(engine).__name__} differentiates a solution of the inner problem, and {solver} trains for "
            "so many steps without looking for one. Use bl.Unrolled(), bl.Forward() or bl.Truncated(), or leave out "
            "steps."
        )


@part(INNER)
def inner_solution(task: Task, point: Point, carry: Carry) -> Outcome:
    """The inner solve, from the carry where the task allows a warm start. A training begins cold."""
    cold = cold_start(task, point)
    start = carry.params if task.warm_start and not task.inner.solver.budget else cold
    return task.inner.run(point.hparams, point.inner_batch, start, cold, point.key)
