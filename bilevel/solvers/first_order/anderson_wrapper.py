"""Anderson acceleration of the steps of any solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Params, PyTree
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.first_order.anderson import GROWTH, coefficients, replaced
from bilevel.solvers.first_order.gradient_descent import GradientDescent
from bilevel.solvers.instance import Instance


class Memory(NamedTuple):
    inner: State  # of the solver, one step after ``params``
    change: PyTree  # f = step(w) - w
    steps: PyTree  # the last differences of w, each leaf (memory, *shape), in a ring
    changes: PyTree  # the last differences of f
    kept: jax.Array  # (memory,): whether there is a difference in this place of the ring
    place: jax.Array  # the place in the ring of the next difference


@settings
@dataclass(frozen=True)
class AndersonWrapper(Solver):
    """w <- w + mixing f - (W + mixing F) c,  c = argmin ||f - F c||,  f = step(w) - w, step that of ``solver``.

    As `bl.Anderson`, where the map is one step of another solver from w, with its curvature and step size kept. f is
    taken per unit of the step size, and ``mixing`` times the step size, because a search changes the step size from
    step to step, and steps of different sizes are not steps of one map. Where the residual of the problem is larger
    than after the solver's own step, that step is taken; where it is ten times larger, or not finite, the memory is
    cleared too. Every engine gives the derivatives of the problem. Worth while for steps that are a smooth map near the
    solution: gradient, proximal gradient and mirror descent, whose step sizes may be searched, and fixed points. The
    steps begin anew at each accelerated point, so they have no momentum. Source: Walker and Ni, 2011; Bertrand and
    Massias, 2021.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> solver = bl.AndersonWrapper(bl.GradientDescent(step_size=0.1), tol=1e-5)
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2),
    ...                         solver=solver)
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(3).tolist()
    [1.0, 2.0]
    """

    solver: Solver = GradientDescent()
    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    memory: int = 5
    mixing: float = 1.0
    ridge: float = 1e-12
    patience = 30

    def init(self, instance: Instance, params: Params) -> State:
        first = self.solver.init(instance, params)
        inner = self.solver.step(instance, first).settled()
        empty = jax.tree.map(lambda leaf: jnp.zeros((self.memory, *leaf.shape), leaf.dtype), params)
        change = self._change(first.params, inner)
        memory = Memory(inner, change, empty, empty, jnp.zeros(self.memory, bool), jnp.int32(0))
        return State(first.params, first.residual, inner.counts, memory)

    def step(self, instance: Instance, state: State) -> State:
        inner, f, steps, changes, kept, place = state.memory
        weights = coefficients(changes, kept, f, self.ridge)
        mixing = self.mixing * self.solver.last_step_size(inner)
        accelerated = jax.tree.map(
            lambda w, f, s, c: (w + mixing * f - jnp.tensordot(weights, s + mixing * c, 1)).astype(w.dtype),
            state.params,
            f,
            steps,
            changes,
        )
        accelerated = instance.prox(accelerated, 0.0) if instance.penalty.is_set else accelerated
        residual = instance.residual_norm(accelerated)
        own = inner.residual if self.solver.keeps_gradient else instance.residual_norm(inner.params)
        rejected = instance.searches & ~(residual <= own) & jnp.any(weights != 0)
        useless = rejected & ~(residual <= GROWTH * own)
        params = trees.select(rejected, inner.params, accelerated)
        residual = jnp.where(rejected, own, residual)
        after = self._next(instance, params, inner)
        change = self._change(params, after)
        steps = replaced(steps, trees.subtract(params, state.params), place)
        changes = replaced(changes, trees.subtract(change, f), place)
        kept = kept.at[place].set(True) & ~useless
        memory = Memory(after, change, steps, changes, kept, (place + 1) % self.memory)
        return State(params, residual, after.counts.plus(gradients=2), memory, after.code)

    def refresh(self, instance: Instance, state: State) -> State:
        inner = self._next(instance, state.params, state.memory.inner)
        memory = state.memory._replace(inner=inner, change=self._change(state.params, inner))
        return state._replace(memory=memory, counts=inner.counts)

    def refuse(self, instance: Instance) -> None:
        self.solver.refuse(instance)

    @property
    def structured(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # known of an instance only
        return self.solver.structured

    @property
    def shards(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # as above
        return self.solver.shards

    @property
    def unrolls(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # as above
        return self.solver.unrolls

    def choose(self, instance: Instance, params: Params) -> tuple[Solver, str]:
        """With the solver that ``solver`` chooses."""
        chosen, reason = self.solver.choose(instance, params)
        return replace(self, solver=chosen), reason

    def _next(self, instance: Instance, params: Params, inner: State) -> State:
        """The solver's state one step after ``params``."""
        return self.solver.step(instance, self.solver.refresh(instance, inner._replace(params=params))).settled()

    def _change(self, params: Params, after: State) -> PyTree:
        """f, from ``params`` to the state one step after."""
        size = self.solver.last_step_size(after)
        return jax.tree.map(lambda new, old: ((new - old) / size).astype(old.dtype), after.params, params)
