"""Gradient descent for smooth losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.penalties import Parameter
from bilevel.solvers.base import ONE, SPARING, Solver, State, needs_smooth, settings
from bilevel.solvers.first_order.step_size import BACKTRACKING, GROWTH, backtrack, first_step_size, steady
from bilevel.solvers.instance import Instance


class Memory(NamedTuple):
    gradient: PyTree
    step_size: jax.Array


@settings
@dataclass(frozen=True)
class GradientDescent(Solver):
    """w <- w - step_size * grad loss(w).

    ``step_size`` is "backtracking", a number, or a function of hparams (a learned step size, for the unrolled
    engines). Converges for a fixed step below 2/L. Stops at ||grad|| <= tol * ||grad at the start||.
    A loss may have an infimum but no minimum, as logistic regression of separable classes without a penalty. Then the
    steps do not get far enough to show it and end ``max_steps``, where `LBFGS` ends ``unbounded``.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2),
    ...                         solver=bl.GradientDescent(max_steps=100, tol=1e-6))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(4).tolist()
    [1.0, 2.0]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    step_size: Parameter = BACKTRACKING

    def init(self, instance: Instance, params: Params) -> State:
        gradient = instance.gradient(params)
        step_size = first_step_size(self.step_size, instance, params, gradient)
        counts = Counts(gradients=2 if self.step_size == BACKTRACKING else 1)
        derivative = ONE.add(ONE) if instance.exact and self.step_size == BACKTRACKING else ONE
        return State(params, trees.norm(gradient), counts, Memory(gradient, step_size), derivative=derivative)

    def step(self, instance: Instance, state: State) -> State:
        gradient, step_size = state.memory

        def move(step: jax.Array) -> Params:
            return trees.axpy(-step, gradient, state.params)

        if self.step_size != BACKTRACKING:
            params = move(step_size)
            after = instance.gradient(params)
            counts = state.counts.plus(gradients=1)
            return State(params, trees.norm(after), counts, Memory(after, step_size), derivative=SPARING)
        trial = backtrack(move, state.params, gradient, GROWTH * step_size, instance)
        counts = state.counts.plus(gradients=trial.trials)
        memory = Memory(trial.gradient, trial.step_size)
        return State(trial.params, trees.norm(trial.gradient), counts, memory, derivative=SPARING)

    def refresh(self, instance: Instance, state: State) -> State:
        step_size, products = steady(self.step_size, state.memory.step_size, instance, state.params)
        counts = state.counts.plus(gradients=1, hessian_products=products)
        return state._replace(memory=Memory(instance.gradient(state.params), step_size), counts=counts)

    def last_step_size(self, state: State) -> jax.Array:
        return state.memory.step_size

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)
