"""Stochastic gradient steps whose size is found from the value of the loss on the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree, Scalar
from bilevel.solvers.base import SPARING, Solver, State, needs_smooth, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import search

MAX_HALVINGS = 30  # 2^-30 of a step is lost in the digits of most losses


class Memory(NamedTuple):
    value: Scalar
    gradient: PyTree
    velocity: PyTree
    step_size: jax.Array


@dataclass(frozen=True)
class StepsByValue(Solver):
    """Steps w <- w - t g + momentum (w - w_before), whose size t is found from values; the subclasses say how."""

    max_steps: int = 1000
    tol: float | jax.Array = 1e-6
    largest: float = 1.0

    def init(self, instance: Instance, params: Params) -> State:
        value, gradient = instance.value_and_gradient(params)
        size = trees.norm(gradient)
        first = jnp.asarray(self.largest, size.dtype)
        rest = jax.tree.map(jnp.zeros_like, params)
        return State(params, size, Counts(gradients=1), Memory(value, gradient, rest, first))

    def refresh(self, instance: Instance, state: State) -> State:
        value, gradient = instance.value_and_gradient(state.params)
        memory = state.memory._replace(value=value, gradient=gradient)
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)


@settings
@dataclass(frozen=True)
class PolyakSGD(StepsByValue):
    """w <- w - t g + momentum (w - w_before),  t = min(largest, (loss(w) - least) / (||g||^2 + damping)).

    ``least`` is the least value of the loss on any samples: 0 for a model that can fit all of them, where the steps
    converge without a schedule. ``largest`` may be infinite. For whole batches too. Source: Polyak, 1987; Loizou et
    al., 2021.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2),
    ...                         solver=bl.PolyakSGD(tol=1e-5))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(3).tolist()
    [1.0, 2.0]
    """

    least: float = 0.0
    damping: float = 0.0
    momentum: float = 0.0

    def step(self, instance: Instance, state: State) -> State:
        value, gradient = state.memory.value, state.memory.gradient
        square = trees.dot(gradient, gradient) + self.damping
        size = jnp.minimum(self.largest, (value - self.least) / jnp.where(square > 0, square, 1))
        # Clipped at zero, because below the stated least value the step would climb.
        size = jnp.maximum(size, 0).astype(state.memory.step_size.dtype)
        return _moved(instance, state, size, self.momentum)


@settings
@dataclass(frozen=True)
class ArmijoSGD(StepsByValue):
    """w <- w - t g + momentum (w - w_before), t shrunk until loss(w - t g) <= loss(w) - sufficient t ||g||^2.

    The loss is that of the current samples, so that each step decreases it. A search begins at the last step size times
    ``growth``, at most ``largest``, and multiplies it by ``shrink`` until the loss falls. Source: Armijo, 1966; Vaswani
    et al., 2019.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2),
    ...                         solver=bl.ArmijoSGD(tol=1e-5))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(3).tolist()
    [1.0, 2.0]
    """

    sufficient: float = 0.1
    growth: float = 1.5
    shrink: float = 0.5
    momentum: float = 0.0

    def step(self, instance: Instance, state: State) -> State:
        value, gradient, _, size = state.memory
        square = jax.lax.stop_gradient(trees.dot(gradient, gradient))
        rounding = 10 * trees.epsilon(state.params) * jnp.abs(jax.lax.stop_gradient(value))

        def at(step: jax.Array) -> tuple[Params, Scalar]:
            params = trees.axpy(-step, gradient, state.params)
            return params, instance.value(params)

        def falls(step: jax.Array, point: tuple[Params, Scalar]) -> jax.Array:
            params, after = point
            enough = after <= jax.lax.stop_gradient(value) - self.sufficient * step * square
            near = after <= jax.lax.stop_gradient(value) + rounding
            slope = lambda: trees.dot(instance.gradient(params), gradient) >= (2 * self.sufficient - 1) * square
            # Where values are rounding, the decrease is read from the slope at the trial.
            return enough | jax.lax.cond(near & ~enough, slope, lambda: jnp.bool_(False))

        first = jnp.minimum(self.growth * size, self.largest).astype(size.dtype)
        most = math.ceil(MAX_HALVINGS * math.log(0.5) / math.log(self.shrink))
        found = search(instance, at, falls, first, most, shrink=self.shrink)
        return _moved(instance, state, found.step, self.momentum, found.trials)


def _moved(instance: Instance, state: State, size: jax.Array, momentum: float, trials: int | jax.Array = 0) -> State:
    """The state after a step of this size, found by ``trials`` values."""
    _, gradient, velocity, _ = state.memory
    velocity = jax.tree.map(lambda v, g: (momentum * v - size * g).astype(v.dtype), velocity, gradient)
    params = trees.axpy(1.0, velocity, state.params)
    value, gradient = instance.value_and_gradient(params)
    counts = state.counts.plus(gradients=1 + trials)
    memory = Memory(value, gradient, velocity, size)
    return State(params, trees.norm(gradient), counts, memory, derivative=SPARING)
