"""Limited-memory BFGS for smooth losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params, PyTree, Scalar
from bilevel.linear_solve import LBFGSPairs, Preconditioner
from bilevel.linear_solve.two_loops import Pairs, two_loops
from bilevel.solvers.base import Solver, State, needs_smooth, settings
from bilevel.solvers.first_order.step_size import smooth_norm
from bilevel.solvers.instance import Instance
from bilevel.solvers.second_order.line_search import Point, line_search


class Memory(NamedTuple):
    value: Scalar
    gradient: PyTree
    pairs: Pairs


def empty_pairs(params: Params, memory: int) -> Pairs:
    stacked = jax.tree.map(lambda leaf: jnp.zeros((memory, *leaf.shape), leaf.dtype), params)
    return Pairs(stacked, stacked, jnp.zeros(memory, trees.norm(params).dtype))


def remember(pairs: Pairs, step: PyTree, change: PyTree) -> Pairs:
    """The pairs with a new one, or unchanged where its curvature s'y is not safely positive."""
    curvature = trees.dot(step, change)
    safe = curvature > trees.epsilon(step) * trees.norm(step) * trees.norm(change)

    def push(stack: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.concatenate([stack[1:], new[None].astype(stack.dtype)])

    pushed = Pairs(
        jax.tree.map(push, pairs.steps, step),
        jax.tree.map(push, pairs.changes, change),
        push(pairs.rho, 1 / jnp.where(safe, curvature, 1.0)),
    )
    return trees.select(safe, pushed, pairs)


def inverse_product(pairs: Pairs, vector: PyTree) -> PyTree:
    """The L-BFGS approximation of the inverse Hessian times a vector, which begins in the units of the newest pair."""
    newest = jax.tree.map(lambda leaf: leaf[-1], pairs)
    size = trees.dot(newest.changes, newest.changes) * newest.rho
    return two_loops(pairs, jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1.0), 1.0), vector)


@settings
@dataclass(frozen=True)
class LBFGS(Solver):
    """w <- w - t B grad loss(w), B the limited-memory BFGS inverse, t by a line search on slopes.

    ``memory`` is the number of pairs kept. Source: Liu and Nocedal, 1989; line search after Hager and Zhang, 2005.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum(jnp.cosh(w - h)), init=lambda key, h: jnp.zeros(2),
    ...                         solver=bl.LBFGS(tol=1e-5))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(3).tolist()
    [1.0, 2.0]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    memory: int = 10
    patience = 15
    keeps_value = True

    def init(self, instance: Instance, params: Params) -> State:
        value, gradient = instance.value_and_gradient(params)
        memory = Memory(jax.lax.stop_gradient(value), gradient, empty_pairs(params, self.memory))
        return State(params, trees.norm(gradient), Counts(gradients=1), memory)

    def step(self, instance: Instance, state: State) -> State:
        value, gradient, pairs = state.memory
        empty = pairs.rho[-1] == 0
        direction = jax.tree.map(jnp.negative, inverse_product(pairs, gradient))
        size = smooth_norm(gradient) if instance.exact else state.residual
        guess = jnp.where(empty, jnp.minimum(1.0, 1 / jnp.where(size > 0, size, 1.0)), 1.0)
        origin = Point(jnp.zeros_like(guess), state.params, value, gradient)
        found = line_search(instance, origin, direction, guess)
        after = found.point
        pairs = remember(pairs, trees.subtract(after.params, state.params), trees.subtract(after.gradient, gradient))
        pairs = trees.select(found.accepted, pairs, empty_pairs(state.params, self.memory))
        counts = state.counts.plus(gradients=found.trials)
        code = jnp.where(found.accepted | ~empty, Code.converged, Code.stalled)
        code = jnp.where(jnp.isfinite(value), code, Code.nonfinite)
        memory = Memory(jax.lax.stop_gradient(after.value), after.gradient, pairs)
        return State(after.params, trees.norm(after.gradient), counts, memory, code)

    def refresh(self, instance: Instance, state: State) -> State:
        value, gradient = instance.value_and_gradient(state.params)
        memory = Memory(value, gradient, state.memory.pairs)
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def approximate_inverse(self, instance: Instance, state: State) -> Preconditioner | None:
        """The pairs."""
        if not instance.mapping.stationary:
            return None
        pairs = state.memory.pairs
        return LBFGSPairs(pairs.steps, pairs.changes)

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)
