"""Anderson acceleration of a fixed-point map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.base import Solver, State, needs_fixed_point, settings
from bilevel.solvers.first_order.fixed_point import change
from bilevel.solvers.instance import Instance

GROWTH = 10.0  # an accelerated step is undone where its residual is this many times the best so far


class Memory(NamedTuple):
    change: PyTree  # f = T(w) - w
    steps: PyTree  # the last differences of w, each leaf (memory, *shape), in a ring
    changes: PyTree  # the last differences of f
    kept: jax.Array  # (memory,): whether there is a difference in this place of the ring
    place: jax.Array  # the place in the ring of the next difference
    best: tuple[Params, PyTree, jax.Array]  # the point of least ||f||, its f and ||f||


@settings
@dataclass(frozen=True)
class Anderson(Solver):
    """w <- w + mixing f - (W + mixing F) c,  c = argmin ||f - F c||,  f = T(w) - w, W and F the last differences.

    ``memory`` is the number of differences kept, ``mixing`` the weight of f. The least squares problem is solved by its
    normal equations in normalised columns with a ridge of ``ridge``. A step that multiplies the best residual by ten is
    undone, and the memory cleared. Raises ValueError where the condition is no fixed point. Source: Anderson, 1965;
    Walker and Ni, 2011.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem.from_fixed_point(lambda w, h, batch: jnp.cos(w) + h, init=lambda key, h: jnp.zeros(3),
    ...                                          solver=bl.Anderson(tol=1e-5))
    >>> [round(float(w), 3) for w in inner.solve(jnp.array([0.0, 0.1, 0.2]), None).params]
    [0.739, 0.798, 0.856]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    memory: int = 5
    mixing: float = 1.0
    ridge: float = 1e-12
    patience = 30

    def init(self, instance: Instance, params: Params) -> State:
        f = change(instance, params)
        empty = jax.tree.map(lambda leaf: jnp.zeros((self.memory, *leaf.shape), leaf.dtype), params)
        nothing = jnp.zeros(self.memory, bool)
        memory = Memory(f, empty, empty, nothing, jnp.int32(0), (params, f, trees.norm(f)))
        return State(params, instance.residual_norm(params), Counts(gradients=1), memory)

    def step(self, instance: Instance, state: State) -> State:
        f, steps, changes, kept, place, best = state.memory
        weights = coefficients(changes, kept, f, self.ridge)
        params = trees.axpy(self.mixing, f, state.params)
        params = jax.tree.map(
            lambda w, s, c: w - jnp.tensordot(weights.astype(w.dtype), s + self.mixing * c, 1),
            params,
            steps,
            changes,
        )
        after = change(instance, params)
        size = trees.norm(after)
        rejected = instance.searches & ~(size <= GROWTH * best[2]) & jnp.any(weights != 0)
        steps = replaced(steps, trees.subtract(params, state.params), place)
        changes = replaced(changes, trees.subtract(after, f), place)
        kept = kept.at[place].set(True) & ~rejected
        params, after, size = trees.select(rejected, best, (params, after, size))
        best = trees.select(size < best[2], (params, after, size), best)
        residual = instance.residual_norm(params)
        memory = Memory(after, steps, changes, kept, (place + 1) % self.memory, best)
        return State(params, residual, state.counts.plus(gradients=1), memory)

    def refresh(self, instance: Instance, state: State) -> State:
        anew = self.init(instance, state.params)
        return state._replace(memory=anew.memory, counts=state.counts.add(anew.counts))

    def refuse(self, instance: Instance) -> None:
        needs_fixed_point(self, instance)


def coefficients(changes: PyTree, kept: jax.Array, f: PyTree, ridge: float) -> jax.Array:
    """The least squares coefficients of the differences in the ring; zero in empty places."""
    pairs = list(zip(jax.tree.leaves(changes), jax.tree.leaves(f), strict=True))
    gram = sum(jnp.einsum("i...,j...->ij", stack, stack) for stack, _ in pairs)
    slope = sum(jnp.einsum("i...,...->i", stack, leaf) for stack, leaf in pairs)
    square = jnp.diagonal(gram)
    used = kept & (square > 0)
    length = jnp.where(used, jnp.sqrt(jnp.where(used, square, 1.0)), 1.0)
    diagonal = jnp.diag(jnp.full(square.shape, max(ridge, 10 * trees.epsilon(f))))
    both = used[:, None] & used[None, :]
    gram = jnp.where(both, gram / (length[:, None] * length[None, :]) + diagonal, jnp.eye(used.size))
    return jnp.linalg.solve(gram, jnp.where(used, slope / length, 0.0)) / length


def replaced(stacks: PyTree, new: PyTree, place: jax.Array) -> PyTree:
    """The stacks with a new entry at a place."""
    return jax.tree.map(lambda stack, leaf: stack.at[place].set(leaf.astype(stack.dtype)), stacks, new)
