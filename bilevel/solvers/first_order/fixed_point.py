"""Plain iteration of a fixed-point map."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.penalties import Parameter, resolve
from bilevel.solvers.base import Solver, State, needs_fixed_point, settings
from bilevel.solvers.instance import Instance


@settings
@dataclass(frozen=True)
class FixedPointIteration(Solver):
    """w <- w + step_size * (T(w) - w).

    For problems stated by `InnerProblem.from_fixed_point`, and for the fixed points of proximal, projected and mirror
    steps. Converges where T is a contraction; a ``step_size`` below 1 (a number, or a function of hparams) averages,
    and is enough where T is nonexpansive. Raises ValueError where the condition is no fixed point.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> solver = bl.FixedPointIteration(tol=1e-6)
    >>> inner = bl.InnerProblem.from_fixed_point(lambda w, h, batch: 0.5 * jnp.cos(w) + h,
    ...                                          init=lambda key, h: jnp.zeros(()), solver=solver)
    >>> round(float(inner.solve(0.0, None).params), 4)
    0.4502
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-8
    step_size: Parameter = 1.0

    def init(self, instance: Instance, params: Params) -> State:
        return State(params, instance.residual_norm(params), Counts(gradients=1), change(instance, params))

    def step(self, instance: Instance, state: State) -> State:
        step_size: jax.Array = resolve(self.step_size, instance.hparams)
        after = self.init(instance, trees.axpy(step_size, state.memory, state.params))
        return after._replace(counts=state.counts.plus(gradients=1))

    def refresh(self, instance: Instance, state: State) -> State:
        counts = state.counts.plus(gradients=1, proxes=instance.mapping.prox_calls)
        return state._replace(memory=change(instance, state.params), counts=counts)

    def refuse(self, instance: Instance) -> None:
        needs_fixed_point(self, instance)


def change(instance: Instance, params: Params) -> PyTree:
    """T(w) - w: the mapping itself, which the natural residual may differ from."""
    return instance.mapping(params, instance.hparams, instance.batch)
