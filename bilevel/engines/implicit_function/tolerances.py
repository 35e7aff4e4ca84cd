"""Schedules of tolerances: how accurately an outer step solves, as traced values that compile nothing again."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

SHARE = 0.5  # the share of the allowed error for each of the two parts
AIM = 0.8  # a new tolerance aims at this part of its share
LEAST = 0.5  # a tolerance that was too loose shrinks at least by this factor,
MOST = 1e-3  # and at most by this factor
GROWTH = 2.0  # a tolerance that is too tight grows at most by this factor in a step


class Evidence(NamedTuple):
    """The evidence of one solve of both systems for a schedule."""

    inner_residual: jax.Array  # relative, as the tolerances are
    adjoint_residual: jax.Array
    inner_error: jax.Array  # the part of the error of the gradient that the inner solve causes
    adjoint_error: jax.Array
    fresh: jax.Array  # whether the errors were estimated here; else only the residuals are known
    size: jax.Array  # the norm of the gradient


class Tolerances(NamedTuple):
    """The tolerances of the next solve, and the memory of a schedule."""

    inner: jax.Array
    adjoint: jax.Array
    inner_ratio: jax.Array  # error caused / residual left, when last estimated; infinity before
    adjoint_ratio: jax.Array
    steps: jax.Array  # outer steps so far


class Schedule(abc.ABC):
    """How the tolerances of inner and adjoint solve follow the outer progress. Abstract; the subclasses are frozen
    dataclasses, registered as pytrees: all their numbers are traced."""

    first: float

    def begin(self) -> Tolerances:
        """The tolerances of the first outer step."""
        first = jnp.asarray(self.first, jnp.result_type(float))
        infinity = jnp.full_like(first, jnp.inf)
        return Tolerances(first, first, infinity, infinity, jnp.int32(0))

    def due(self, tolerances: Tolerances) -> jax.Array:
        """Whether this outer step should estimate the error of its gradient."""
        return jnp.bool_(False)

    @abc.abstractmethod
    def judge(self, tolerances: Tolerances, finest: Tolerances, seen: Evidence) -> tuple[jax.Array, Tolerances]:
        """Whether the gradient is accurate enough, and the tolerances of the next solve: of this step if it is not."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Summable(Schedule):
    """tol_k = first * rate^k / (k + 1)^power in outer step k, for both solves.

    The sum over all steps is finite (rate < 1, or power > 1), as convergence requires: ``rate=0.9`` is the exponential
    schedule of HOAG, ``rate=1.0, power=2.0`` its quadratic one. Source: Pedregosa, 2016, section 3.

    >>> schedule = Summable(first=0.1, rate=0.5)
    >>> tolerances = schedule.begin()
    >>> done, tolerances = schedule.judge(tolerances, tolerances, None)
    >>> bool(done), round(float(tolerances.inner), 3)
    (True, 0.05)
    """

    first: float = 0.1
    rate: float = 0.9
    power: float = 0.0

    def judge(self, tolerances: Tolerances, finest: Tolerances, seen: Evidence | None) -> tuple[jax.Array, Tolerances]:
        steps = tolerances.steps + 1
        tol = self.first * self.rate**steps / (steps + 1.0) ** self.power
        tol = jnp.asarray(tol, tolerances.inner.dtype)
        return jnp.bool_(True), tolerances._replace(inner=tol, adjoint=tol, steps=steps)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ErrorDriven(Schedule):
    """A gradient is accurate enough if its estimated error is at most ``fraction`` of its norm.

    If it is not, the solve that causes more than half of the error allowed is refined, from where it stopped, to the
    residual that the estimate predicts to be enough: the error is proportional to the residual near the solution. If it
    is, both tolerances may grow up to twofold for the next step. So they fall with the norm of the gradient and no
    faster, and the work goes to the system that needs it. With an error below the norm of the gradient the negative
    gradient is a direction of descent.

    The error is estimated in every ``every``-th outer step by a Newton correction, which costs about an adjoint solve.
    In between it is taken to be proportional to the residuals, with the last ratio. ``first`` is the tolerance of the
    start. Source: Ehrhardt and Roberts, 2021; Salehi et al., 2025 (MAID).
    """

    fraction: float = 0.2
    first: float = 0.1
    every: int = field(default=5, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"ErrorDriven(every={self.every}): estimate the error every 1, 2, ... outer steps.")

    def due(self, tolerances: Tolerances) -> jax.Array:
        return tolerances.steps % self.every == 0

    def judge(self, tolerances: Tolerances, finest: Tolerances, seen: Evidence) -> tuple[jax.Array, Tolerances]:
        inner_ratio = _ratio(seen.fresh, seen.inner_error, seen.inner_residual, tolerances.inner_ratio)
        adjoint_ratio = _ratio(seen.fresh, seen.adjoint_error, seen.adjoint_residual, tolerances.adjoint_ratio)
        allowed = SHARE * self.fraction * seen.size
        upper = jnp.asarray(self.first, tolerances.inner.dtype)
        inner_enough, inner = _next(tolerances.inner, (finest.inner, upper), inner_ratio, seen.inner_residual, allowed)
        adjoint_enough, adjoint = _next(
            tolerances.adjoint, (finest.adjoint, upper), adjoint_ratio, seen.adjoint_residual, allowed
        )
        done = inner_enough & adjoint_enough
        # A part that is accurate enough keeps its tolerance while the other part is refined.
        inner = jnp.where(~done & inner_enough, tolerances.inner, inner)
        adjoint = jnp.where(~done & adjoint_enough, tolerances.adjoint, adjoint)
        steps = tolerances.steps + jnp.where(done, 1, 0)
        return done, Tolerances(inner, adjoint, inner_ratio, adjoint_ratio, steps)


def _ratio(fresh: jax.Array, error: jax.Array, residual: jax.Array, before: jax.Array) -> jax.Array:
    """The error that one unit of relative residual causes."""
    return jnp.where(fresh, jnp.where(residual > 0, error / jnp.where(residual > 0, residual, 1), 0), before)


def _next(
    tol: jax.Array, bounds: tuple[jax.Array, jax.Array], ratio: jax.Array, residual: jax.Array, allowed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Whether one part of the error is small enough (or cannot be made smaller), and its next tolerance."""
    finest, loosest = bounds
    enough = (ratio * residual <= allowed) | (tol <= finest)
    wanted = jnp.where(ratio > 0, AIM * allowed / jnp.where(ratio > 0, ratio, 1), jnp.inf)
    grown = jnp.clip(wanted, LEAST * tol, GROWTH * tol)
    shrunk = jnp.clip(wanted, MOST * tol, LEAST * tol)
    return enough, jnp.clip(jnp.where(enough, grown, shrunk), finest, jnp.maximum(loosest, finest))
