"""Proximal gradient, accelerated with restart: a smooth loss plus a penalty, or over a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.penalties import Parameter
from bilevel.solvers.base import ONE, Solver, State, settings
from bilevel.solvers.first_order.step_size import BACKTRACKING, GROWTH, backtrack, first_step_size, steady
from bilevel.solvers.instance import Instance

ALWAYS_CHECKED = 10  # so many first steps each compute the residual and search the step size
CHECK_EVERY = 8  # steps between checks, because the residual costs about as much as a step


class Memory(NamedTuple):
    extrapolated: Params  # y, where the next gradient is taken
    momentum: jax.Array  # t of Nesterov's sequence
    step_size: jax.Array
    steps: jax.Array
    before: Params  # y of the last step, and the gradient there
    slope: PyTree


@settings
@dataclass(frozen=True)
class ProximalGradient(Solver):
    """w+ = prox(y - step grad loss(y), step),  y = w+ + (t - 1)/t+ (w+ - w).

    Accelerated (FISTA) with O'Donoghue-Candes gradient restart, or plain with ``acceleration=False``; with a set
    instead of a penalty it is the projected gradient method. ``step_size`` is "backtracking", a number, or a function
    of hparams. Source: Beck and Teboulle, 2009; O'Donoghue and Candes, 2015.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2), penalty=bl.L1(weight=jnp.exp),
    ...                         init=lambda key, h: jnp.zeros(2), solver=bl.ProximalGradient(tol=1e-6))
    >>> inner.solve(0.0, jnp.array([3.0, 0.5])).params.round(4).tolist()
    [2.0, 0.0]
    """

    max_steps: int = 5000
    tol: float | jax.Array = 1e-8
    step_size: Parameter = BACKTRACKING
    acceleration: bool = True
    keeps_gradient = False

    def init(self, instance: Instance, params: Params) -> State:
        gradient = instance.gradient(params)
        step_size = first_step_size(self.step_size, instance, params, gradient)
        counts = Counts(gradients=3 if self.step_size == BACKTRACKING else 1, proxes=1)
        state = self.begin(params, instance.residual_norm(params), step_size, counts)
        searched = instance.exact and self.step_size == BACKTRACKING
        return state._replace(derivative=ONE.add(ONE).add(ONE)) if searched else state

    def begin(self, params: Params, residual: jax.Array, step_size: jax.Array, counts: Counts) -> State:
        """The state at a start whose residual and step size are known already."""
        memory = _memory(params, jnp.ones_like(step_size), step_size)
        return State(params, residual, counts, memory)

    def step(self, instance: Instance, state: State) -> State:
        memory = state.memory
        gradient = instance.gradient(memory.extrapolated)

        def move(step: jax.Array) -> Params:
            return instance.prox(trees.axpy(-step, gradient, memory.extrapolated), step)

        def checked() -> tuple:
            if self.step_size != BACKTRACKING:
                params, step = move(memory.step_size), memory.step_size
                counts = state.counts.plus(gradients=2, proxes=2)
                return params, step, instance.residual_norm(params), counts.as_arrays()
            params, after, step, trials = backtrack(
                move, memory.extrapolated, gradient, jnp.where(steep, 1, GROWTH) * memory.step_size, instance
            )
            counts = state.counts.plus(gradients=trials + 1, proxes=trials + 1)
            return params, step, instance.residual_given(params, after), counts.as_arrays()

        def unchecked() -> tuple:
            counts = state.counts.plus(gradients=1, proxes=1)
            return move(memory.step_size), memory.step_size, state.residual, counts.as_arrays()

        steep = _steep(memory, gradient)
        due = steep | (memory.steps < ALWAYS_CHECKED) | (memory.steps % CHECK_EVERY == 0)
        params, step, residual, counts = jax.lax.cond(due, checked, unchecked) if instance.searches else unchecked()
        momentum, extrapolated = self._extrapolate(params, state.params, memory)
        memory = Memory(extrapolated, momentum, step, memory.steps + 1, memory.extrapolated, gradient)
        spared = jnp.where(due, 1, 0) if instance.searches else 0
        return State(params, residual, counts, memory, derivative=ONE.plus(gradients=-spared, proxes=-spared))

    def refresh(self, instance: Instance, state: State) -> State:
        step_size, products = steady(self.step_size, state.memory.step_size, instance, state.params)
        memory = _memory(state.params, state.memory.momentum, step_size)
        return state._replace(memory=memory, counts=state.counts.plus(hessian_products=products))

    def last_step_size(self, state: State) -> jax.Array:
        return state.memory.step_size

    def _extrapolate(self, params: Params, before: Params, memory: Memory) -> tuple[jax.Array, Params]:
        if not self.acceleration:
            return memory.momentum, params
        progress = trees.subtract(params, before)
        # The restart of O'Donoghue and Candes: momentum that points uphill starts again from nothing.
        uphill = trees.dot(trees.subtract(memory.extrapolated, params), progress) > 0
        momentum = 0.5 * (1 + jnp.sqrt(1 + 4 * memory.momentum**2))
        weight = jnp.where(uphill, 0.0, (memory.momentum - 1) / momentum)
        momentum = jax.lax.stop_gradient(jnp.where(uphill, 1.0, momentum))
        return momentum, trees.axpy(jax.lax.stop_gradient(weight), progress, params)


def _memory(params: Params, momentum: jax.Array, step_size: jax.Array) -> Memory:
    """The memory at a start, before any step."""
    return Memory(params, momentum, step_size, jnp.int32(0), params, jax.tree.map(jnp.zeros_like, params))


def _steep(memory: Memory, gradient: PyTree) -> jax.Array:
    """Whether the gradient changed more from one y to the next than the step size allows: ||dg|| > ||dy|| / step."""
    change, gradient = jax.lax.stop_gradient((trees.subtract(gradient, memory.slope), gradient))
    moved = jax.lax.stop_gradient(trees.subtract(memory.extrapolated, memory.before))
    rounding = (8 * trees.epsilon(gradient)) ** 2 * trees.dot(gradient, gradient)
    square = trees.dot(moved, moved)
    size = trees.dot(change, change)
    return (square > 0) & ((size > square / memory.step_size**2 + rounding) | ~jnp.isfinite(size))
