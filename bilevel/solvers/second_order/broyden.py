"""Broyden's method for residuals and fixed points; only the first step takes a derivative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.base import ONE, Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import search, stopped

MAX_HALVINGS = 8  # halvings of a step of the updates; few, because it need not descend
MAX_HALVINGS_DOWNHILL = 50  # halvings of the steepest descent step of ||F||^2: it descends once it is short
SUFFICIENT = 1e-4  # Armijo's constant, for the norm of the residual


class Inverse(NamedTuple):
    """The approximate inverse of dF/dw, scale I + sum_i left_i right_i'."""

    scale: jax.Array  # 0: nothing is known yet
    left: PyTree  # each leaf (memory, *shape); zero beyond ``count``
    right: PyTree
    count: jax.Array


class Memory(NamedTuple):
    residual: PyTree
    inverse: Inverse


class Trial(NamedTuple):
    params: Params
    residual: PyTree
    norm: jax.Array
    trials: jax.Array
    accepted: jax.Array


@settings
@dataclass(frozen=True)
class Broyden(Solver):
    """w <- w - t B F(w) with B+ = B + (s - B y) s'B / (s'B y), the inverse of "good" Broyden updates; t by halving.

    Finds the root of any condition F from its values. The first direction, and the direction after a failed search, is
    the steepest descent step of ||F||^2, which takes one product with dF/dw and one with its transpose. The memory
    holds ``memory`` rank-one terms; when it is full it is emptied. Source: Broyden, 1965.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem.from_residual(lambda w, h, batch: w**3 + w - h, init=lambda key, h: jnp.zeros(2),
    ...                                       solver=bl.Broyden(tol=1e-5))
    >>> inner.solve(jnp.array([2.0, 10.0]), None).params.round(3).tolist()
    [1.0, 2.0]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    memory: int = 30
    patience = 30

    def init(self, instance: Instance, params: Params) -> State:
        residual = instance.residual(params)
        return State(params, trees.norm(residual), Counts(gradients=1), Memory(residual, self._unknown(params)))

    def step(self, instance: Instance, state: State) -> State:
        residual, inverse = state.memory
        fresh = inverse.scale == 0
        direction = jax.lax.cond(
            fresh,
            lambda: _steepest(instance, state.params, residual),
            lambda: jax.tree.map(jnp.negative, product(inverse, residual)),
        )
        halvings = jnp.where(fresh, MAX_HALVINGS_DOWNHILL, MAX_HALVINGS)
        found = _search(instance, state, direction, halvings)
        failed = ~found.accepted
        s, y = trees.subtract(found.params, state.params), trees.subtract(found.residual, residual)
        inverse = trees.select(failed, self._unknown(state.params), _updated(inverse, s, y, self.memory))
        params, after = trees.select(failed, (state.params, residual), (found.params, found.residual))
        counts = state.counts.plus(gradients=found.trials, hessian_products=jnp.where(fresh, 2, 0))
        code = stopped(~(failed & fresh), jnp.isfinite(trees.norm(direction)))
        norm = jnp.where(failed, state.residual, found.norm)
        derivative = ONE.plus(hessian_products=jnp.where(fresh, 2, 0))  # for the two products too
        return State(params, norm, counts, Memory(after, inverse), code, derivative)

    def refresh(self, instance: Instance, state: State) -> State:
        memory = state.memory._replace(residual=instance.residual(state.params))
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def _unknown(self, params: Params) -> Inverse:
        empty = jax.tree.map(lambda leaf: jnp.zeros((self.memory, *leaf.shape), leaf.dtype), params)
        return Inverse(jnp.zeros((), trees.norm(params).dtype), empty, empty, jnp.int32(0))


def product(inverse: Inverse, vector: PyTree) -> PyTree:
    """B v."""
    return _low_rank(inverse.scale, inverse.left, inverse.right, vector)


def _low_rank(scale: jax.Array, left: PyTree, right: PyTree, vector: PyTree) -> PyTree:
    """scale v + sum_i left_i <right_i, v>."""
    products = jax.tree.map(lambda stack, leaf: jnp.einsum("i...,...->i", stack, leaf), right, vector)
    weights = trees.total(products)
    add = lambda v, stack: jnp.asarray(scale * v + jnp.tensordot(weights, stack, 1), v.dtype)
    return jax.tree.map(add, vector, left)


def _steepest(instance: Instance, params: Params, residual: PyTree) -> PyTree:
    """-(||g||^2 / ||A g||^2) g with g = A'F: the minimiser of ||F + A d|| along steepest descent."""
    _, push = jax.linearize(instance.residual, params)
    (gradient,) = jax.linear_transpose(push, params)(residual)
    image = push(gradient)
    size = trees.dot(image, image)
    length = trees.dot(gradient, gradient) / jnp.where(size > 0, size, 1.0)
    return jax.tree.map(lambda leaf: (-length * leaf).astype(leaf.dtype), gradient)


def _search(instance: Instance, state: State, direction: PyTree, halvings: jax.Array) -> Trial:
    def at(step: jax.Array) -> tuple[Params, PyTree, jax.Array]:
        params = trees.axpy(step, direction, state.params)
        residual = instance.residual(params)
        return params, residual, trees.norm(residual)

    def falls(step: jax.Array, point: tuple[Params, PyTree, jax.Array]) -> jax.Array:
        return point[2] <= (1 - SUFFICIENT * step) * state.residual

    found = search(instance, at, falls, jnp.ones_like(state.residual), halvings + 1)
    return Trial(*found.point, found.trials, found.accepted)


def _updated(inverse: Inverse, s: PyTree, y: PyTree, memory: int) -> Inverse:
    """The inverse after a step s that changed the residual by y; unchanged where s'B y vanishes."""
    size = trees.dot(y, y)
    first = trees.dot(s, y) / jnp.where(size > 0, size, 1.0)
    ratio = trees.dot(s, s) / jnp.where(size > 0, size, 1.0)  # the root has no derivative where no step was taken
    first = jnp.where(first != 0, first, jnp.where(ratio > 0, jnp.sqrt(jnp.where(ratio > 0, ratio, 1.0)), 0.0))
    restart = (inverse.scale == 0) | (inverse.count >= memory)
    keep = jnp.where(restart, 0.0, 1.0)
    left, right = (jax.tree.map(lambda leaf: (keep * leaf).astype(leaf.dtype), side) for side in inverse[1:3])
    scale, count = jnp.where(restart, first, inverse.scale), jnp.where(restart, 0, inverse.count)
    image = _low_rank(scale, left, right, y)  # B y
    row = _low_rank(scale, right, left, s)  # s'B
    denominator = trees.dot(row, y)
    safe = jnp.abs(denominator) > 1e-10 * trees.norm(row) * trees.norm(y)
    weight = jnp.where(safe, 1 / jnp.where(safe, denominator, 1.0), 0.0)
    column = jax.tree.map(lambda a, b: (weight * (a - b)).astype(a.dtype), s, image)
    put = lambda stack, leaf: stack.at[count].set(leaf)
    return Inverse(scale, jax.tree.map(put, left, column), jax.tree.map(put, right, row), count + 1)
