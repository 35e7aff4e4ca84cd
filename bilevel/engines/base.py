"""What an engine is: a way to the gradient of the outer loss through the inner solution."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax

from bilevel.problem import InnerProblem
from bilevel.solvers import Outcome
from bilevel.status import Status
from bilevel.typing import Batch, Counts, HParams, Key, Loss, Params, PyTree, Scalar

POLICIES = ("raise", "warn", "retry", "skip")
GRADES = ("residual", "estimate", "bound")


class Carry(NamedTuple):
    """What one hypergradient hands to the next: the start of the inner solve and of the adjoint solve."""

    params: Params
    adjoint: PyTree


@dataclass(frozen=True, eq=False)
class Bilevel:
    """The two levels as functions: the inner problem and the outer loss (its prior on hparams included)."""

    inner: InnerProblem
    outer_loss: Loss
    prior: Callable[[HParams], Scalar]
    warm_start: bool

    def outer(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return self.outer_loss(params, hparams, batch) + self.prior(hparams)


class Point(NamedTuple):
    """Where a hypergradient is asked for."""

    hparams: HParams
    inner_batch: Batch
    outer_batch: Batch
    key: Key


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Report:
    """What is known of a hypergradient beside its value.

    Residuals are relative: ||F(w)|| / ||F(init)|| of the inner solve, ||v - A'u|| / ||v|| of the adjoint. ``status`` is
    the worse of the two. ``error_estimate`` estimates the norm of the error of the returned gradient, and
    ``error_grade`` says with which claim: "bound" (a theorem), "estimate" (a Newton correction in its regime of
    validity), "residual" (an order of magnitude, no claim).
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

    @property
    def status(self) -> Status:
        return self.inner_status.worse(self.adjoint_status)

    @property
    def error_grade(self) -> str:
        return GRADES[int(self.grade)]


class Engine(abc.ABC):
    """A hypergradient estimator. Abstract; the subclasses are final frozen dataclasses, compared by value."""

    on_failure: str
    needs_reverse: ClassVar[bool] = False

    @abc.abstractmethod
    def hypergradient(self, bilevel: Bilevel, point: Point, carry: Carry) -> tuple[Scalar, HParams, Report]:
        """The outer loss, its gradient in hparams, and the report. Pure: lives inside jit, never raises on values."""

    @abc.abstractmethod
    def first_carry(self, bilevel: Bilevel, point: Point) -> Carry:
        """The carry of a cold start."""


def check_policy(on_failure: str) -> None:
    if on_failure not in POLICIES:
        raise ValueError(f"on_failure={on_failure!r} is not one of {', '.join(POLICIES)}.")


def cold_start(bilevel: Bilevel, point: Point) -> Params:
    return bilevel.inner.init(point.key, point.hparams)


def inner_solution(bilevel: Bilevel, point: Point, carry: Carry) -> Outcome:
    """The inner solve, from the carry where the task allows a warm start."""
    cold = cold_start(bilevel, point)
    start = carry.params if bilevel.warm_start else cold
    return bilevel.inner.run(point.hparams, point.inner_batch, start, cold)


def settings(cls: Any) -> Any:
    """Registers an engine as a pytree: its linear solver holds traced tolerances, all else is compared by value."""
    names = list(cls.__dataclass_fields__)
    leaves = [name for name in names if name == "linear_solve"]
    return jax.tree_util.register_dataclass(cls, leaves, [name for name in names if name not in leaves])
