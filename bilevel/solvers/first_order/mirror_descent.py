"""Mirror descent: multiplicative steps on the simplex and the orthant, or by a mirror map of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.penalties import Parameter
from bilevel.solvers.base import SPARING, Solver, State, settings
from bilevel.solvers.first_order.mirrors import Mirror, mirror_of
from bilevel.solvers.first_order.step_size import BACKTRACKING, MAX_HALVINGS, Trial, first_step_size
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import search

GROWTH = 1.5  # the next search begins at the last accepted step times this


def constant(step: jax.Array) -> float:
    """The schedule of a step size that does not change."""
    return 1.0


class Memory(NamedTuple):
    gradient: PyTree
    step_size: jax.Array
    steps: jax.Array


@settings
@dataclass(frozen=True)
class MirrorDescent(Solver):
    """w <- the mirror descent step of size t: multiplicative on the sets of the entropy.

        bl.Simplex:      scale * w exp(-t grad) / sum(w exp(-t grad)) along the last axis
        bl.NonNegative:  w exp(-t grad)
        bl.Parts:        one of these for each part, as for a product of simplices; bl.Zero: w - t grad
        without a set:   projection(mirror_map(w) - t grad), where the problem is stated with
                         ``optimality=bl.optimality.MirrorDescent(loss, projection, mirror_map)``

    ``step_size`` is "backtracking" (t is halved until the step does not overshoot the minimum on its
    segment, <grad(w+), w+ - w> <= 0), a number, or a function of hparams; ``schedule(step)`` multiplies it. Safe at
    zeros: a coordinate that is zero and should grow is lifted to 1e-10 of a uniform row first; all others stay zero.
    Converges linearly; coordinates outside the support shrink by a factor a step and never are exactly zero (the
    mirror descent condition takes them as zeros). Raises ValueError for other sets. Source: Nemirovsky and Yudin, 1983;
    Beck and Teboulle, 2003.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2), constraint=bl.Simplex(),
    ...                         init=lambda key, h: jnp.ones(3) / 3, solver=bl.MirrorDescent(tol=1e-5))
    >>> [round(float(w), 3) for w in inner.solve(jnp.array([0.7, 0.5, -1.0]), None).params]
    [0.6, 0.4, 0.0]
    """

    max_steps: int = 5000
    tol: float | jax.Array = 1e-8
    step_size: Parameter = BACKTRACKING
    schedule: Callable[[jax.Array], float | jax.Array] = constant

    def init(self, instance: Instance, params: Params) -> State:
        params = _mirror(instance).feasible(params)
        gradient = instance.gradient(params)
        step_size = first_step_size(self.step_size, instance, params, gradient)
        residual = instance.residual_given(params, gradient)
        return State(params, residual, Counts(gradients=2, proxes=1), Memory(gradient, step_size, jnp.int32(0)))

    def step(self, instance: Instance, state: State) -> State:
        gradient, step_size, steps = state.memory
        mirror = _mirror(instance)
        origin = mirror.lifted(state.params, gradient)
        factor = self.schedule(steps)

        def move(step: jax.Array) -> Params:
            return mirror.step(origin, gradient, factor * step)

        if self.step_size != BACKTRACKING:
            params = move(step_size)
            found = Trial(params, instance.gradient(params), step_size, jnp.int32(1))
        else:
            found = _backtrack(instance, mirror, move, origin, GROWTH * step_size)
        counts = state.counts.plus(gradients=found.trials, proxes=1)
        residual = instance.residual_given(found.params, found.gradient)
        memory = Memory(found.gradient, found.step_size, steps + 1)
        return State(found.params, residual, counts, memory, derivative=SPARING)

    def refresh(self, instance: Instance, state: State) -> State:
        memory = state.memory._replace(gradient=instance.gradient(state.params))
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def last_step_size(self, state: State) -> jax.Array:
        return state.memory.step_size

    def refuse(self, instance: Instance) -> None:
        if mirror_of(instance) is None:
            raise ValueError(
                "bl.MirrorDescent keeps to bl.Simplex, bl.NonNegative and products of them by bl.Parts, and would "
                f"ignore {type(instance.penalty).__name__}. Use bl.ProximalGradient() or bl.Auto(), or state the "
                "problem with optimality=bl.optimality.MirrorDescent(loss, projection, mirror_map)."
            )


def _mirror(instance: Instance) -> Mirror:
    mirror = mirror_of(instance)
    assert mirror is not None  # never None, because `refuse` has been asked
    return mirror


def _backtrack(
    instance: Instance, mirror: Mirror, move: Callable[[jax.Array], Params], origin: Params, first: jax.Array
) -> Trial:
    """The step of a frozen search: its derivative goes through the accepted step alone."""
    frozen = jax.lax.stop_gradient
    first = first if instance.searches else frozen(first) / GROWTH

    def at(step: jax.Array) -> tuple[Params, PyTree]:
        params = move(step)
        return params, instance.gradient(params)

    def short(step: jax.Array, point: tuple[Params, PyTree]) -> jax.Array:
        params, gradient = point
        shift = trees.subtract(params, frozen(origin))
        rounding = 8 * trees.epsilon(origin) * trees.norm(gradient) * trees.norm(shift)
        slope = trees.dot(mirror.slope(params, gradient), shift)
        return jnp.isfinite(slope) & (slope <= rounding)

    found = search(instance, at, short, first, MAX_HALVINGS)
    return Trial(*found.point, found.step, found.trials)
