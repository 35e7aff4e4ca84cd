"""Large problems with few active rows: another solver works on the rows that matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.penalties import Parameter
from bilevel.solvers.active_set_newton import ActiveSetNewton
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.loop import iterate
from bilevel.solvers.rows import needs_rows, restricted
from bilevel.solvers.step_size import BACKTRACKING, first_step_size
from bilevel.typing import Counts, Params

INNER_TOL = 1e-3  # how far a subproblem is solved, relative to its residual at the start
INNER_STEPS = 100


class Memory(NamedTuple):
    gradient: jax.Array
    members: jax.Array  # the rows that the last subproblem had, a mask


@settings
@dataclass(frozen=True)
class WorkingSet(Solver):
    """Solves the problem in the rows that are active or violate optimality most, the others fixed, by ``solver``.

        repeat: S = active rows and those of largest ||prox(w - grad) - w||,   w_S = argmin over the rows S alone

    For sparse solutions: a step costs one gradient of the whole loss and a solve in |S| rows, whose columns are
    gathered if the loss is `bl.Linear`. |S| is the first of ``sizes`` that is at least twice the number of active rows,
    and all rows where none is (shapes are fixed under jit). Active is a row in S that the prox lets move. Raises
    ValueError where the penalty is no sum over rows. Source: Johnson and Guestrin, 2015; Massias, Gramfort and Salmon,
    2018.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.Linear(design=lambda batch: batch, loss=lambda z, w, h, batch: jnp.sum((z - h) ** 2))
    >>> inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(4), penalty=bl.L1(weight=1.0),
    ...                         solver=bl.WorkingSet(sizes=(2,), tol=1e-5))
    >>> inner.solve(jnp.array([3.0, 0.1, 0.2]), jnp.eye(3, 4)).params.round(3).tolist()
    [2.5, 0.0, 0.0, 0.0]
    """

    solver: Solver = ActiveSetNewton()
    max_steps: int = 100
    tol: float = 1e-10
    sizes: tuple[int, ...] = (256, 2048)
    patience = 10
    unrolls = False

    def init(self, instance: Instance, params: Params) -> State:
        needs_rows(self, instance, params)
        gradient = instance.gradient(params)
        members = _any(params != 0)
        return State(params, instance.residual_given(params, gradient), Counts(gradients=1), Memory(gradient, members))

    def step(self, instance: Instance, state: State) -> State:
        gradient, members = state.memory
        active, priority = _ranked(instance, state.params, gradient, members)
        needed = 2 * jnp.sum(active)
        sizes = [size for size in self.sizes if 2 * size <= state.params.shape[0]]
        branches = [lambda size=size: self._on(instance, state.params, priority, size) for size in sizes]
        everything = lambda: self._on(instance, state.params, priority, state.params.shape[0])  # noqa: E731
        number = jnp.sum(jnp.array(sizes, jnp.int32) < needed)
        params, members, counts = jax.lax.switch(number, [*branches, everything])
        gradient = instance.gradient(params)
        residual = instance.residual_given(params, gradient)
        return State(params, residual, state.counts.plus(gradients=1).add(counts), Memory(gradient, members))

    def refresh(self, instance: Instance, state: State) -> State:
        memory = state.memory._replace(gradient=instance.gradient(state.params))
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def _on(
        self, instance: Instance, params: jax.Array, priority: jax.Array, size: int
    ) -> tuple[jax.Array, jax.Array, Counts]:
        """The params, the mask of the rows and the cost after a solve in the ``size`` rows of highest priority."""
        solver = replace(self.solver, max_steps=INNER_STEPS, tol=INNER_TOL)  # type: ignore[type-var]
        if size == params.shape[0]:
            outcome = iterate(solver, instance, params, params)
            return outcome.params, jnp.ones(size, bool), outcome.counts
        _, indices = jax.lax.top_k(priority, size)
        outcome = iterate(solver, restricted(instance, params, indices), params[indices], params[indices])
        members = jnp.zeros(params.shape[0], bool).at[indices].set(True)
        return params.at[indices].set(outcome.params), members, outcome.counts


def _any(mask: jax.Array) -> jax.Array:
    """Whether any entry of each row is set."""
    return jnp.any(mask.reshape(mask.shape[0], -1), axis=-1)


def _ranked(
    instance: Instance, params: jax.Array, gradient: jax.Array, members: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which rows are active, and the priority of all rows: active ones first, then by violation."""
    step: Parameter = first_step_size(BACKTRACKING, instance, params, gradient)
    tangent = jax.random.normal(jax.random.key(0), params.shape, params.dtype)
    prox = lambda point: instance.prox(point, step)  # noqa: E731
    moved, derivative = jax.jvp(prox, (params - step * gradient,), (tangent,))
    violation = jnp.sum(((moved - params) / step).reshape(params.shape[0], -1) ** 2, axis=-1)
    active = members & (_any(derivative != 0) | _any(moved != params))
    return active, jnp.where(active, jnp.inf, violation)
