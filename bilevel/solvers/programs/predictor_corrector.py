"""One step of an interior-point method: its start, direction and length."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.kernels.condensed import Parts, condensed
from bilevel.solvers.programs.stated_by_functions import Derivatives, Point, Program

TO_THE_BOUNDARY = 0.995  # a step goes at most this share of the way to the nearest bound
MAX_HALVINGS = 25  # 2^-25 of a step is half of the digits
LEAST = 1e-6  # the least slack and multiplier at the start


class Iterate(NamedTuple):
    """An interior point: slack > 0 and inequality_dual > 0, for rows that are scaled to gradients of length 1."""

    primal: jax.Array
    equality_dual: jax.Array
    inequality_dual: jax.Array
    slack: jax.Array

    def moved(self, length: jax.Array, step: Iterate) -> Iterate:
        return Iterate(*(value + length * change for value, change in zip(self, step, strict=True)))


class Direction(NamedTuple):
    step: Iterate
    barrier: jax.Array  # the aim for the product of slack and multiplier
    shift: jax.Array  # the multiple of the identity added to the Hessian; 0 for convex problems
    factorizations: jax.Array


def first_iterate(program: Program, at: Point) -> tuple[Iterate, jax.Array]:
    """An interior start near ``at``, and the scale of the inequalities there.

    Slacks and multipliers are at least the violation of the KKT conditions, so a good start hardly moves and a poor one
    is centred.
    """
    at = Point(*jax.lax.stop_gradient(tuple(at)))
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
    return Iterate(at.primal, at.equality_dual, dual, slack), scale


def barrier_direction(here: Derivatives, at: Iterate) -> Direction:
    """Mehrotra's direction: an affine step shows how far the products can fall, and its second-order terms.

    The multipliers and slacks are eliminated, so that both systems are solved with one factor of H + C' diag(dual /
    slack) C. Where the factor needed a shift to be convex, the barrier parameter stays the same, so that the step
    descends.
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
    convex = jax.lax.stop_gradient(factor.shift == 0)
    centering = jnp.where(convex, jnp.clip(left / jnp.where(gap > 0, gap, 1), 0, 1) ** 3, 1)
    barrier = jax.lax.stop_gradient(centering * gap / max(products.size, 1))
    step = solve(products + jnp.where(convex, affine.slack * affine.inequality_dual, 0) - barrier)
    return Direction(step, barrier, factor.shift, factor.factorizations)


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


def step_length(
    program: Program, scale: jax.Array, here: Derivatives, at: Iterate, direction: Direction, searches: bool
) -> tuple[jax.Array, jax.Array]:
    """The step length: short of the bounds, and short enough that the KKT residual falls (or the merit, where the
    Hessian needed a shift). Constant for derivatives."""
    if not searches:
        return jnp.ones((), at.primal.dtype), jnp.int32(0)
    here, at, direction = jax.lax.stop_gradient((here, at, direction))
    gap = jnp.sum(at.slack * at.inequality_dual)
    before = jnp.linalg.norm(jnp.concatenate([*residuals(here, at), here.equality]))
    forces = jnp.abs(here.gradient).sum() + jnp.abs(here.inequality_rows.T @ at.inequality_dual).sum()
    rounding = 100 * jnp.finfo(at.primal.dtype).eps * (forces + jnp.abs(here.inequality).sum())
    penalty = 1.5 * jnp.max(jnp.abs(jnp.concatenate([at.inequality_dual, at.equality_dual])), initial=0)
    merit = _merit(program, scale, at, direction.barrier, penalty)

    def rejected(length: jax.Array) -> jax.Array:
        trial = at.moved(length, direction.step)
        gradient = jax.grad(program.lagrangian)(trial.primal, trial.equality_dual, scale * trial.inequality_dual)
        infeasible = scale * program.inequality(trial.primal) + trial.slack
        after = jnp.linalg.norm(jnp.concatenate([gradient, infeasible, program.equality(trial.primal)]))
        fine = after <= (1 - 1e-4 * length) * before + gap + rounding
        falls = _merit(program, scale, trial, direction.barrier, penalty) < merit
        return ~(jnp.isfinite(after) & (fine | ((direction.shift > 0) & falls)))

    first = longest(at, direction.step, TO_THE_BOUNDARY)
    length, trials = jax.lax.while_loop(
        lambda carry: rejected(carry[0]) & (carry[1] < MAX_HALVINGS),
        lambda carry: (0.5 * carry[0], carry[1] + 1),
        (first, jnp.int32(0)),
    )
    return jax.lax.stop_gradient(length), trials + 1


def _merit(program: Program, scale: jax.Array, at: Iterate, barrier: jax.Array, penalty: jax.Array) -> jax.Array:
    """The barrier function with an exact penalty on the violation."""
    infeasible = jnp.abs(scale * program.inequality(at.primal) + at.slack).sum()
    infeasible += jnp.abs(program.equality(at.primal)).sum()
    return program.value(at.primal) - barrier * jnp.sum(jnp.log(at.slack)) + penalty * infeasible
