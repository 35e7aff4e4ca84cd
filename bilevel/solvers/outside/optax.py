"""Any optax transformation as an inner solver."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import optax

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.base import SPARING, Solver, State, needs_smooth, settings
from bilevel.solvers.instance import Instance


@settings
@dataclass(frozen=True)
class Optax(Solver):
    """w <- w + update(grad loss(w)), with the updates of an ``optax.GradientTransformation``.

    A transformation that takes ``value``, ``grad`` or ``value_fn`` (``optax.lbfgs``, ``polyak_sgd``,
    ``reduce_on_plateau``) gets them. A line search has a loop that `bl.Unrolled` cannot differentiate in reverse mode;
    use `bl.Forward`. The derivative of ``optax.adam`` is NaN where a gradient was always 0: give it an ``eps_root``.

    >>> import jax.numpy as jnp, optax, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2),
    ...                         solver=bl.Optax(optax.sgd(0.3), tol=1e-6))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(4).tolist()
    [1.0, 2.0]
    """

    transformation: optax.GradientTransformation = optax.sgd(0.1)
    max_steps: int = 1000
    tol: float | jax.Array = 1e-6

    def init(self, instance: Instance, params: Params) -> State:
        gradient = instance.gradient(params)
        memory = (gradient, self.transformation.init(params))
        return State(params, trees.norm(gradient), Counts(gradients=1), memory)

    def step(self, instance: Instance, state: State) -> State:
        gradient, inside = state.memory
        update = optax.with_extra_args_support(self.transformation).update
        asked = {"value": instance.value(state.params), "grad": gradient, "value_fn": instance.value}
        updates, inside = update(gradient, inside, state.params, **asked)
        params: PyTree = optax.apply_updates(state.params, updates)
        gradient = instance.gradient(params)
        searched = optax.tree.get_all_with_path(inside, "num_linesearch_steps")
        counts = state.counts.plus(gradients=1 + sum(number for _, number in searched))
        return State(params, trees.norm(gradient), counts, (gradient, inside), derivative=SPARING)

    def refresh(self, instance: Instance, state: State) -> State:
        memory = (instance.gradient(state.params), state.memory[1])
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)
