"""Limited-memory BFGS in a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params, PyTree, Scalar
from bilevel.solvers.base import ONE, Solver, State, settings
from bilevel.solvers.first_order.step_size import smooth_norm
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import search
from bilevel.solvers.second_order.lbfgs import Pairs, empty_pairs, inverse_product, remember

SUFFICIENT = 1e-4  # Armijo's constant
MAX_HALVINGS = 30  # 2^-30 of a step is lost in the digits of most losses
NEAR = 1e-3  # a coordinate at most this near a bound counts as on it
GROWTH = 10.0  # of the first trial of the next step after a step without curvature, as along a linear loss


class Memory(NamedTuple):
    value: Scalar
    gradient: PyTree
    pairs: Pairs
    bounds: tuple[PyTree, PyTree]  # the lower and the upper bounds
    stretch: jax.Array  # of the first step where there are no pairs


class Trial(NamedTuple):
    params: Params
    value: Scalar
    gradient: PyTree
    accepted: jax.Array
    trials: jax.Array


@settings
@dataclass(frozen=True)
class LBFGSB(Solver):
    """w <- project(w - t B grad loss(w)) on a box, B the limited-memory BFGS inverse on the free coordinates.

    Two-metric projection: a coordinate is bound where it lies at (or very near) a bound that the gradient pushes
    against; there B is the identity, elsewhere it comes from the last ``memory`` steps restricted to the free
    coordinates. t is halved until the loss decreases enough. For `bl.Box` and every other set that is a box; raises
    ValueError otherwise. Source: Bertsekas, 1982; Schmidt, Kim and Sra, 2011.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum(jnp.cosh(w - h)), init=lambda key, h: jnp.zeros(2),
    ...                         constraint=bl.Box(upper=1.5), solver=bl.LBFGSB(tol=1e-5))
    >>> [round(float(w), 3) for w in inner.solve(jnp.array([1.0, 2.0]), None).params]
    [1.0, 1.5]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    memory: int = 10
    patience = 60
    keeps_value = True

    def init(self, instance: Instance, params: Params) -> State:
        params = instance.prox(params, 1.0)
        value, gradient = instance.value_and_gradient(params)
        pairs = empty_pairs(params, self.memory)
        residual = instance.residual_given(params, gradient)
        ends, one = bounds(instance, params), jnp.ones_like(residual)
        memory = Memory(jax.lax.stop_gradient(value), gradient, pairs, ends, one)
        return State(params, residual, Counts(gradients=1, proxes=4), memory)

    def step(self, instance: Instance, state: State) -> State:
        value, gradient, pairs, ends, stretch = state.memory
        empty = pairs.rho[-1] == 0
        direction = _direction(state, ends)
        size = smooth_norm(gradient)
        first = jnp.where(empty, stretch * jnp.minimum(1.0, 1 / jnp.where(size > 0, size, 1.0)), 1.0)
        found = _search(instance, state, direction, first)
        s, y = trees.subtract(found.params, state.params), trees.subtract(found.gradient, gradient)
        pairs = trees.select(found.accepted, remember(pairs, s, y), empty_pairs(state.params, self.memory))
        before = (state.params, value, gradient)
        params, value, gradient = trees.select(found.accepted, (found.params, found.value, found.gradient), before)
        residual = instance.residual_given(params, gradient)
        counts = state.counts.plus(gradients=found.trials, proxes=found.trials + 1)
        code = jnp.where(found.accepted | ~empty, Code.converged, Code.stalled)
        stretch = longer(found, pairs, stretch, state.params)
        memory = Memory(jax.lax.stop_gradient(value), gradient, pairs, ends, stretch)
        return State(params, residual, counts, memory, code, ONE.plus(proxes=-1))

    def refresh(self, instance: Instance, state: State) -> State:
        value, gradient = instance.value_and_gradient(state.params)
        ends = bounds(instance, state.params)  # they may depend on hyperparameters, which have changed
        memory = state.memory._replace(value=jax.lax.stop_gradient(value), gradient=gradient, bounds=ends)
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1, proxes=2))

    def refuse(self, instance: Instance) -> None:
        if not (instance.penalty.is_set and instance.penalty.separable):
            raise ValueError(
                f"bl.LBFGSB minimises a smooth loss in a box and would ignore {type(instance.penalty).__name__}. "
                "Use bl.ActiveSetNewton(), bl.ProximalGradient() or bl.Auto()."
            )


def bounds(instance: Instance, params: Params) -> tuple[PyTree, PyTree]:
    """The lower and upper bounds of a box that is known by its projection: the projections of minus and plus
    infinity."""
    lowest, highest = (
        jax.tree.map(lambda leaf, far=far: jnp.full_like(leaf, far), params) for far in (-jnp.inf, jnp.inf)
    )
    return jax.lax.stop_gradient((instance.prox(lowest, 1.0), instance.prox(highest, 1.0)))


def longer(found: Trial, pairs: Pairs, stretch: jax.Array, params: Params) -> jax.Array:
    """The factor on the first trial of the next step. It grows while steps are accepted at once and meet no curvature,
    up to a length at which the verdict is clear. Once there is a pair, the factor is 1."""
    flat = found.accepted & (found.trials == 1) & (pairs.rho[-1] == 0)
    most = trees.epsilon(params) ** -1.5
    grown = jnp.where(flat, jnp.minimum(GROWTH * stretch, most), 1)
    return jax.lax.stop_gradient(grown).astype(stretch.dtype)


def _direction(state: State, ends: tuple[PyTree, PyTree]) -> PyTree:
    _, gradient, pairs, *_ = state.memory
    near = jnp.minimum(NEAR, state.residual)

    def free(w: jax.Array, g: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        bound = ((w <= low + near) & (g > 0)) | ((w >= high - near) & (g < 0)) | (low == high)
        return jnp.where(bound, 0, 1).astype(w.dtype)

    mask = jax.tree.map(free, state.params, gradient, *ends)
    masked = lambda tree: jax.tree.map(jnp.multiply, mask, tree)
    steps, changes = (jax.vmap(masked)(stack) for stack in (pairs.steps, pairs.changes))
    curvature = sum(
        jax.tree.leaves(jax.tree.map(lambda s, y: jnp.sum((s * y).reshape(s.shape[0], -1), axis=-1), steps, changes))
    )
    safe = (curvature > 0) & (pairs.rho > 0)
    rho = jnp.where(safe, 1 / jnp.where(safe, curvature, 1.0), 0.0)
    inside = inverse_product(Pairs(steps, changes, rho), masked(gradient))
    return jax.tree.map(lambda on, b, g: -jnp.where(on > 0, b, g), mask, inside, gradient)


def _search(instance: Instance, state: State, direction: PyTree, first: jax.Array) -> Trial:
    frozen = jax.lax.stop_gradient
    value, gradient, *_ = frozen(state.memory)
    rounding = 10 * trees.epsilon(state.params) * jnp.abs(value)

    def at(step: jax.Array) -> tuple[Params, Scalar, PyTree]:
        params = instance.prox(trees.axpy(step, direction, state.params), 1.0)
        return params, *instance.value_and_gradient(params)

    def falls(step: jax.Array, point: tuple[Params, Scalar, PyTree]) -> jax.Array:
        params, after, slope = point
        shift = trees.subtract(params, frozen(state.params))
        before, behind = trees.dot(gradient, shift), trees.dot(slope, shift)
        armijo = after <= value + SUFFICIENT * before
        approximate = (behind <= (2 * SUFFICIENT - 1) * before) & (after <= value + rounding)
        return (before < 0) & (armijo | approximate)

    found = search(instance, at, falls, first, MAX_HALVINGS)
    return Trial(*found.point, found.accepted, found.trials)
