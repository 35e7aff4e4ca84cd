"""One step of an interior-point method: its start and direction."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.kernels.condensed import Parts, condensed
from bilevel.solvers.programs.stated_by_functions import Derivatives, Point, Program

LEAST = 1e-6  # the least slack and multiplier at the start
ROUNDING = 16.0  # in units of the precision: the error of a row that adds up a few terms


class Iterate(NamedTuple):
    """An interior point: slack > 0 and inequality_dual > 0, for rows that are scaled to gradients of length 1."""

    primal: jax.Array
    equality_dual: jax.Array
    inequality_dual: jax.Array
    slack: jax.Array

    def moved(self, length: jax.Array, step: Iterate, dual: jax.Array | None = None) -> Iterate:
        """Moved by ``length``; the inequalities' multipliers by ``dual``, if given."""
        lengths = (length, length, length if dual is None else dual, length)
        return Iterate(*(value + by * change for by, value, change in zip(lengths, self, step, strict=True)))

    def represented(self) -> Iterate:
        """With slacks no smaller than the rounding of a row, which is that of the unknowns: rows have unit gradients.

        At the floor of the precision each step divides the slack of an active row by up to 200. The Newton system then
        holds multiplier / slack = 1e18 beside the Hessian, of which no digit is left, and later NaN.
        """
        limits = jnp.finfo(self.slack.dtype)
        rounding = ROUNDING * limits.eps * trees.norm(jax.lax.stop_gradient(self.primal))
        least = jnp.maximum(rounding, jnp.sqrt(limits.smallest_normal))
        return self._replace(slack=jnp.maximum(self.slack, least.astype(self.slack.dtype)))


class Direction(NamedTuple):
    step: Iterate
    barrier: jax.Array  # the aim for the product of slack and multiplier
    shift: jax.Array  # the multiple of the identity added to the Hessian; 0 for convex problems
    factorizations: jax.Array
    guard: Guard
    least: jax.Array  # the least curvature along the active rows, relative to the largest; 0: none is negative


class Guard(NamedTuple):
    """The findings of the steps so far on a problem that is not convex."""

    penalty: jax.Array  # the weight of the violation in the merit
    curved: jax.Array  # whether a Hessian has needed a shift
    barrier: jax.Array  # from then on: the parameter whose barrier problem is being solved

    @classmethod
    def begun(cls, like: jax.Array) -> Guard:
        return cls(jnp.zeros_like(like), jnp.bool_(False), jnp.full_like(like, jnp.inf))


def first_iterate(program: Program, at: Point) -> tuple[Iterate, jax.Array]:
    """An interior start near ``at``, and the scale of the inequalities there.

    Slacks and multipliers are raised to at least the violation of the KKT conditions. So a good start hardly moves and
    a poor one is centred.
    Both are constant for derivatives. The primal point is not, because its derivative shows how much of the start is
    left in the result.
    """
    start, at = at, Point(*jax.lax.stop_gradient(tuple(at)))
    here: Derivatives = jax.lax.stop_gradient(program.derivatives(*at))
    lengths = jnp.linalg.norm(here.inequality_rows, axis=1)
    scale = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 1)
    value, dual = scale * here.inequality, at.inequality_dual / scale
    forces = here.equality_rows.T @ at.equality_dual + here.inequality_rows.T @ at.inequality_dual
    unbalanced = jnp.max(jnp.abs(here.gradient + forces), initial=0)
    violated = jnp.maximum(jnp.max(value, initial=0), jnp.max(jnp.abs(here.equality), initial=0))
    mismatch = jnp.max(jnp.abs(dual - jnp.maximum(dual + value, 0)), initial=0)
    total = jnp.maximum(jnp.maximum(unbalanced, violated), mismatch)
    slack = jnp.maximum(-value, jnp.maximum(jnp.maximum(violated, jnp.minimum(total, 1)), LEAST))
    dual = jnp.maximum(dual, jnp.maximum(total, LEAST))
    return Iterate(start.primal, start.equality_dual, dual, slack), scale


def barrier_direction(here: Derivatives, at: Iterate, guard: Guard) -> Direction:
    """Mehrotra's direction: an affine step shows how far the products can fall, and its second-order terms.

    The multipliers and slacks are eliminated, so that both systems are solved with one factor of H + C' diag(dual /
    slack) C. Once a factor has needed a shift to be convex, the barrier parameter falls only where its problem is
    nearly solved, so that the step descends.
    """
    weights = at.inequality_dual / at.slack
    rows = here.inequality_rows
    factor = condensed(Parts(here.hessian, rows, weights, here.equality_rows))
    unbalanced, infeasible = residuals(here, at)

    def solve(products: jax.Array) -> Iterate:
        top = -unbalanced - rows.T @ ((at.inequality_dual * infeasible - products) / at.slack)
        primal, equality_dual = factor.solve(top, -here.equality)
        slack = -infeasible - rows @ primal
        return Iterate(primal, equality_dual, -(products + at.inequality_dual * slack) / at.slack, slack)

    products = at.slack * at.inequality_dual
    affine = jax.lax.stop_gradient(solve(products))
    reached = at.moved(longest(at, affine, 1.0), affine)
    gap, left = jnp.sum(products), jnp.sum(reached.slack * reached.inequality_dual)
    convex = jax.lax.stop_gradient((factor.shift == 0) & ~guard.curved)
    centering = jnp.clip(left / jnp.where(gap > 0, gap, 1), 0, 1) ** 3
    mean = gap / max(products.size, 1)
    guard = guard._replace(curved=~convex, barrier=lowered(here, at, jnp.minimum(guard.barrier, mean)))
    barrier = jax.lax.stop_gradient(jnp.where(convex, centering * mean, guard.barrier))
    guard = jax.lax.stop_gradient(guard._replace(barrier=jnp.where(convex, jnp.inf, guard.barrier)))
    step = solve(products + jnp.where(convex, affine.slack * affine.inequality_dual, 0) - barrier)
    return Direction(step, barrier, factor.shift, factor.factorizations, guard, factor.least)


def rests(at: Iterate, direction: Direction) -> jax.Array:
    """Whether the unknowns no longer move at a negative curvature: a saddle, which no further step would leave."""
    size, length = trees.norm(at.primal), trees.norm(direction.step.primal)
    epsilon = jnp.finfo(length.dtype).eps
    return jax.lax.stop_gradient((direction.least < -(epsilon**0.5)) & (length <= epsilon * (1 + size)))


def lowered(here: Derivatives, at: Iterate, barrier: jax.Array) -> jax.Array:
    """The barrier parameter, or the next smaller one where its problem is nearly solved. Source: Waechter and Biegler,
    2006, equations (7) and (8)."""
    unbalanced, infeasible = residuals(here, at)
    off = at.slack * at.inequality_dual - barrier
    error = jnp.max(jnp.abs(jnp.concatenate([unbalanced, infeasible, here.equality, off])), initial=0)
    least = jnp.finfo(barrier.dtype).eps
    smaller = jnp.maximum(jnp.minimum(0.2 * barrier, barrier**1.5), least)
    return jnp.where(error <= 10 * barrier, jnp.minimum(smaller, barrier), barrier)


def residuals(here: Derivatives, at: Iterate) -> tuple[jax.Array, jax.Array]:
    """The gradient of the Lagrangian, and inequality + slack."""
    forces = here.equality_rows.T @ at.equality_dual + here.inequality_rows.T @ at.inequality_dual
    return here.gradient + forces, here.inequality + at.slack


def longest(at: Iterate, step: Iterate, share: float) -> jax.Array:
    """The longest step up to 1 that goes no further than ``share`` of the way to a bound."""

    def ratio(value: jax.Array, change: jax.Array) -> jax.Array:
        return jnp.min(jnp.where(change < 0, -value / jnp.where(change < 0, change, -1), jnp.inf), initial=jnp.inf)

    nearest = jnp.minimum(ratio(at.slack, step.slack), ratio(at.inequality_dual, step.inequality_dual))
    return jnp.minimum(1, share * nearest).astype(at.primal.dtype)
