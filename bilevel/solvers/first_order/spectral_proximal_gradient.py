"""Proximal gradient steps with spectral step sizes and a nonmonotone search: a smooth loss plus a penalty, or a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.first_order.step_size import BACKTRACKING, MAX_HALVINGS, first_step_size
from bilevel.solvers.instance import Instance

REMEMBERED = 8  # a step has to stay below the largest of so many last objectives
SUFFICIENT = 1e-4  # Armijo's constant
HIDDEN = 100  # units of roundoff of an objective: a smaller change may be rounding
CHANGE = 1e3  # the largest ratio of a step size to the one before it
CHECK_EVERY = 8  # steps after which the residual is computed in any case
CLOSE = 10.0  # once the last residual is below so many times the goal, each step computes it


class Memory(NamedTuple):
    gradient: PyTree
    step_size: jax.Array  # of the next step
    objectives: jax.Array  # of the last iterates
    goal: jax.Array  # the residual at which the solve stops
    steps: jax.Array


class Trial(NamedTuple):
    params: Params
    gradient: PyTree
    objective: jax.Array
    length: jax.Array  # ||w+ - w||
    curvature: jax.Array  # <grad(w+) - grad(w), w+ - w>
    step_size: jax.Array
    number: jax.Array
    accepted: jax.Array


@settings
@dataclass(frozen=True)
class SpectralProximalGradient(Solver):
    """w+ = prox(w - s grad loss(w), s),  s+ = ||w+ - w||^2 / <grad loss(w+) - grad loss(w), w+ - w>.

    s is halved until the objective is below the largest of the last eight; or until it is no larger, up to rounding,
    and the curvature along the step is at most 1 / s, as it is for every s below 1/L. A step costs one gradient and no
    product. At a moderate condition number the method takes half as many gradients as the accelerated one, at a large
    one more. Source: Birgin, Martinez and Raydan, 2000; Wright, Nowak and Figueiredo, 2009.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2), penalty=bl.L1(weight=jnp.exp),
    ...                         init=lambda key, h: jnp.zeros(2), solver=bl.SpectralProximalGradient(tol=1e-6))
    >>> inner.solve(0.0, jnp.array([3.0, 0.5])).params.round(4).tolist()
    [2.0, 0.0]
    """

    max_steps: int = 5000
    tol: float | jax.Array = 1e-8
    unrolls = False

    def init(self, instance: Instance, params: Params) -> State:
        gradient = instance.gradient(params)
        residual = instance.residual_given(params, gradient)
        step_size = first_step_size(BACKTRACKING, instance, params, gradient)
        return self.begin(params, gradient, residual, step_size, Counts(gradients=2, proxes=1))

    def begin(
        self, params: Params, gradient: PyTree, residual: jax.Array, step_size: jax.Array, counts: Counts
    ) -> State:
        """The state at a start where gradient, residual and a step size are known already."""
        objectives = jnp.full(REMEMBERED, -jnp.inf, residual.dtype)  # not the start's, which may be infeasible
        memory = Memory(gradient, step_size, objectives, self.tol * residual, jnp.int32(0))
        return State(params, residual, counts, memory)

    def step(self, instance: Instance, state: State) -> State:
        memory = state.memory
        found = _search(instance, state)
        natural = found.length / jnp.minimum(found.step_size, 1)  # a bound: no less than the residual before the step
        due = (natural <= CLOSE * memory.goal) | (memory.steps % CHECK_EVERY == CHECK_EVERY - 1)
        due |= ~jnp.isfinite(found.objective)
        residual = jax.lax.cond(
            due, lambda: instance.residual_given(found.params, found.gradient), lambda: state.residual
        )
        objectives = memory.objectives.at[memory.steps % REMEMBERED].set(found.objective)
        memory = Memory(found.gradient, _spectral(found, memory), objectives, memory.goal, memory.steps + 1)
        counts = state.counts.plus(gradients=found.number, proxes=found.number + jnp.where(due, 1, 0))
        return State(found.params, residual, counts, memory)

    def refresh(self, instance: Instance, state: State) -> State:
        memory = state.memory._replace(gradient=instance.gradient(state.params))
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))


def _search(instance: Instance, state: State) -> Trial:
    """The first step size of s, s/2, s/4, ... that is accepted, and where it leads.

    Where every trial left the domain of the objective, the point stays. The next search goes on from the last step.
    """
    memory = state.memory
    largest = jnp.max(memory.objectives)

    def trial(before: Trial) -> Trial:
        step = 0.5 * before.step_size
        params = instance.prox(trees.axpy(-step, memory.gradient, state.params), step)
        value, gradient = instance.value_and_gradient(params)
        objective = (value + instance.penalty.value(params, instance.hparams)).astype(largest.dtype)
        shift = trees.subtract(params, state.params)
        square = trees.dot(shift, shift)
        curvature = trees.dot(trees.subtract(gradient, memory.gradient), shift)
        length = jnp.sqrt(square)
        rounding = 8 * trees.epsilon(params) * trees.norm(gradient) * length  # a square would overflow
        decreased = objective <= largest - 0.5 * SUFFICIENT * square / step
        # For a convex loss this curvature implies a decrease, even if rounding hides it. For other losses both are
        # tested.
        rises = jnp.isfinite(largest) & ~(objective <= largest + HIDDEN * trees.epsilon(params) * jnp.abs(largest))
        flat = jnp.isfinite(curvature) & (curvature <= square / step + rounding)
        accepted = decreased | (flat & ~rises)
        return Trial(params, gradient, objective, length, curvature, step, before.number + 1, accepted)

    zero = jnp.zeros_like(largest)
    start = Trial(state.params, memory.gradient, zero, zero, zero, 2 * memory.step_size, jnp.int32(0), jnp.bool_(False))
    found = jax.lax.while_loop(lambda trial: ~trial.accepted & (trial.number < MAX_HALVINGS), trial, start)
    lost = ~found.accepted & jnp.isfinite(trees.norm(memory.gradient)) & ~jnp.isfinite(found.objective)
    stays = start._replace(objective=largest, step_size=found.step_size, number=found.number)
    return trees.select(lost, stays, found)


def _spectral(found: Trial, memory: Memory) -> jax.Array:
    """The inverse of the curvature along the last step.

    Where there was no curvature, the step size grows, because long steps show whether the loss falls without end. It
    does not where the point is far out already, nor where it did not move, which says nothing of the curvature. A prox
    may end every long step at the same point, so the step size has a limit that prevents an overflow.
    """
    curved = found.curvature > 0
    endless = found.length > trees.epsilon(found.params) ** -1.5
    longest = jnp.where(endless | (found.length == 0), found.step_size, jnp.inf)
    step_size = jnp.where(curved, found.length**2 / jnp.where(curved, found.curvature, 1), longest)
    longest = jnp.sqrt(jnp.finfo(step_size.dtype).max)
    return jnp.clip(step_size, found.step_size / CHANGE, jnp.minimum(found.step_size * CHANGE, longest))
