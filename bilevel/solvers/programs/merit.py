"""How far an interior-point method goes along a direction: by the KKT residual, or by a merit where the problem is not
convex."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.rescue import rescued
from bilevel.solvers.programs.predictor_corrector import Direction, Guard, Iterate, longest, residuals
from bilevel.solvers.programs.stated_by_functions import Derivatives, Program

TO_THE_BOUNDARY = 0.995  # a step goes at most this share of the way to the nearest bound
MAX_HALVINGS = 25  # 2^-25 of a step is half of the digits
SUFFICIENT = 1e-4  # of the slope of the merit
NEAR = 1e10  # the factor by which a multiplier may differ from the barrier's
FARTHEST = 100.0  # times the size of the point: no longer step where a Hessian of zero leaves the model without a scale
TINY = 1e-12  # relative: a row this near to its bound keeps its slack
MOST_CAREFUL = 1e-8  # the least share of a step that reduces the violation


class Taken(NamedTuple):
    """The iterate after a step, and the findings of the step."""

    iterate: Iterate
    trials: jax.Array
    guard: Guard


def step_along(program: Program, scale: jax.Array, here: Derivatives, at: Iterate, direction: Direction) -> Taken:
    """The iterate after the longest step that is accepted. The lengths are constant for derivatives.

    The step ends short of the bounds. As long as no Hessian has needed a shift, the KKT residual has to fall, as it
    does for convex problems. After the first shift the merit has to fall by a share of its slope, and multipliers have
    a length of their own. A step at a Hessian without a shift is then also accepted where it halves the KKT residual:
    that lets Newton's steps through near a solution, and can happen without end only on the way to one. Where no length
    is accepted, the violation is reduced instead.
    """
    frozen = jax.lax.stop_gradient((here, at, direction))
    search = _Search(program, scale, *frozen)
    curved = direction.guard.curved
    both = longest(search.at, search.direction.step, TO_THE_BOUNDARY)
    first = jnp.where(curved, shortest(search.at.slack, search.direction.step.slack), both)
    dual = shortest(search.at.inequality_dual, search.direction.step.inequality_dual)
    if program.degrees(at.primal).loss > 2:
        reach = FARTHEST * (1 + trees.norm(search.at.primal))
        size = trees.norm(search.direction.step.primal)
        first = jnp.minimum(first, reach / jnp.where(size > 0, size, reach))
    slope, penalty = _slope(search.here, search.at, search.direction)
    merit = search.merit(search.at, penalty)
    length, trials = jax.lax.while_loop(
        lambda carry: search.rejects(carry[0], dual, slope, penalty, merit) & (carry[1] < MAX_HALVINGS),
        lambda carry: (0.5 * carry[0], carry[1] + 1),
        (first, jnp.int32(0)),
    )
    length, dual = jax.lax.stop_gradient((length, jnp.where(curved, dual, length)))
    moved = at.moved(length, direction.step, dual)
    failed = curved & (trials >= MAX_HALVINGS)
    after = search.safe(at, moved, failed)
    penalty = jnp.where(failed, 0, penalty)
    return Taken(after, trials + 1, jax.lax.stop_gradient(direction.guard._replace(penalty=penalty)))


class _Search(NamedTuple):
    program: Program
    scale: jax.Array
    here: Derivatives
    at: Iterate
    direction: Direction

    def rejects(
        self, length: jax.Array, dual: jax.Array, slope: jax.Array, penalty: jax.Array, merit: jax.Array
    ) -> jax.Array:
        program, scale, here, at, direction = self
        epsilon, curved = jnp.finfo(at.primal.dtype).eps, direction.guard.curved
        before = trees.norm(jnp.concatenate([*residuals(here, at), here.equality]))
        forces = jnp.abs(here.gradient).sum() + jnp.abs(here.inequality_rows.T @ at.inequality_dual).sum()
        rounding = 100 * epsilon * (forces + jnp.abs(here.inequality).sum())
        trial = at.moved(length, direction.step, jnp.where(curved, dual, length))
        gradient = jax.grad(program.lagrangian)(trial.primal, trial.equality_dual, scale * trial.inequality_dual)
        infeasible = scale * program.inequality(trial.primal) + trial.slack
        after = trees.norm(jnp.concatenate([gradient, infeasible, program.equality(trial.primal)]))
        gap = jnp.sum(at.slack * at.inequality_dual)
        fine = ~curved & (after <= (1 - 1e-4 * length) * before + gap + rounding)
        halved = (direction.shift == 0) & (after <= 0.5 * before + rounding)
        least = merit + SUFFICIENT * length * slope + 10 * epsilon * jnp.abs(merit)
        falls = curved & (slope < 0) & (self.merit(trial, penalty) <= least)
        return ~(jnp.isfinite(after) & (fine | halved | falls))

    def merit(self, at: Iterate, penalty: jax.Array) -> jax.Array:
        """The barrier function with an exact penalty on the violation."""
        program = self.program
        infeasible = jnp.abs(self.scale * program.inequality(at.primal) + at.slack).sum()
        infeasible += jnp.abs(program.equality(at.primal)).sum()
        return program.value(at.primal) - self.direction.barrier * jnp.sum(jnp.log(at.slack)) + penalty * infeasible

    def safe(self, at: Iterate, moved: Iterate, failed: jax.Array) -> Iterate:
        """The iterate with its multipliers within a factor of 1e10 of the barrier's multipliers. Where the search
        ``failed``, it is an iterate with a smaller violation, at a constant change from ``at``: the start stays visible
        in the derivative. A program that looks convex keeps its iterate."""
        restored = jax.lax.stop_gradient(self.restored(failed))
        change = restored.primal - self.at.primal
        restored = restored._replace(primal=at.primal + change)
        chosen = trees.select(failed, restored, moved)
        central = self.direction.barrier / chosen.slack
        near = jnp.clip(chosen.inequality_dual, central / NEAR, central * NEAR)
        return chosen._replace(inequality_dual=jnp.where(self.direction.guard.curved, near, chosen.inequality_dual))

    def restored(self, failed: jax.Array) -> Iterate:
        """A damped Gauss-Newton step on the violation, with the slacks that feasible rows have.

        The multipliers begin anew, because the multipliers of a failed step mean nothing.
        """
        program, scale, here, at, _ = self
        slack = jnp.where(here.inequality < -TINY, -here.inequality, at.slack)

        def violation(x: jax.Array) -> jax.Array:
            return jnp.concatenate([program.equality(x), jnp.maximum(scale * program.inequality(x) + slack, 0)])

        off = jnp.concatenate([here.equality, jnp.maximum(here.inequality + slack, 0)])
        rows = jnp.concatenate([here.equality_rows, here.inequality_rows])
        step = rescued(failed, _feasible_step, (rows, off), jnp.zeros_like(at.primal))
        size = trees.norm(off)
        length = jax.lax.while_loop(
            lambda t: failed & ~(trees.norm(violation(at.primal + t * step)) <= size) & (t > MOST_CAREFUL),
            lambda t: 0.5 * t,
            jnp.ones_like(size),
        )
        none = jnp.zeros_like(at.equality_dual)
        return Iterate(at.primal + length * step, none, self.direction.barrier / slack, slack)


def _feasible_step(rows: jax.Array, off: jax.Array) -> jax.Array:
    """The damped step of least ||off + rows d|| in the rows that are off."""
    rows = jnp.where((off != 0)[:, None], rows, 0)
    square = rows @ rows.T
    damping = 1e-6 * jnp.trace(square) + jnp.finfo(off.dtype).tiny
    return -rows.T @ jnp.linalg.solve(square + damping * jnp.eye(off.size, dtype=off.dtype), off)


def shortest(values: jax.Array, changes: jax.Array) -> jax.Array:
    """The longest step up to 1 that keeps positive values positive."""
    ratios = jnp.where(changes < 0, -values / jnp.where(changes < 0, changes, -1), jnp.inf)
    return jnp.minimum(1, TO_THE_BOUNDARY * jnp.min(ratios, initial=jnp.inf)).astype(values.dtype)


def _slope(here: Derivatives, at: Iterate, direction: Direction) -> tuple[jax.Array, jax.Array]:
    """The slope of the merit along the direction, and the penalty with which the decrease of the linearised violation
    outweighs what the barrier function gains. Source: Nocedal and Wright, 2006, equation (18.33)."""
    step, penalty = direction.step, direction.guard.penalty
    linear = here.gradient @ step.primal - direction.barrier * jnp.sum(step.slack / at.slack)
    moved = step.slack**2 * at.inequality_dual / at.slack
    curvature = step.primal @ (here.hessian @ step.primal) + jnp.sum(moved)
    violation = jnp.concatenate([here.equality, here.inequality + at.slack])
    change = jnp.concatenate([here.equality_rows @ step.primal, here.inequality_rows @ step.primal + step.slack])
    gain = jnp.sum(jnp.abs(violation)) - jnp.sum(jnp.abs(violation + change))
    needed = (linear + 0.5 * jnp.maximum(curvature, 0)) / jnp.where(gain > 0, 0.9 * gain, jnp.inf)
    penalty = jnp.where(needed > penalty, 1.1 * needed, penalty)
    return linear - penalty * gain, penalty
