"""A solver that runs on the host, outside JAX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.foundation.callbacks import on_host
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.base import Solver, State, settings
from bilevel.solvers.instance import Instance


@settings
@dataclass(frozen=True)
class Host(Solver):
    """w <- function(w, hparams, batch), any code on NumPy arrays: the whole solver is one step.

    Each step runs ``function`` once, from the current params, through `jax.pure_callback`; it works under jit, and lane
    by lane under vmap. The residual of the problem is computed here before and after. So a start that is a solution
    runs nothing, and a result that is no solution has the status ``max_steps``, whatever the function reports. At most
    ``max_steps`` runs are made. Derivatives are implicit (`bl.Implicit`), because there are no steps to differentiate.
    The function has to be pure, and params, hparams and batch pytrees of arrays.

    >>> import jax, jax.numpy as jnp, numpy as np, bilevel as bl
    >>> solver = bl.Host(lambda w, h, batch: np.linalg.solve(batch, h), tol=1e-5)
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.sum((batch @ w - h) ** 2),
    ...                         init=lambda key, h: jnp.zeros(2), solver=solver)
    >>> solve = lambda h: inner.solve(h, jnp.diag(jnp.array([1.0, 2.0]))).params
    >>> solve(jnp.array([3.0, 4.0])).tolist()
    [3.0, 2.0]
    >>> jnp.diagonal(jax.jacobian(solve)(jnp.array([3.0, 4.0]))).round(3).tolist()
    [1.0, 0.5]
    """

    function: Callable[[Params, PyTree, PyTree], Params]
    max_steps: int = 1
    tol: float | jax.Array = 1e-8
    unrolls = False
    shards = False

    def init(self, instance: Instance, params: Params) -> State:
        return State(params, instance.residual_norm(params), Counts(gradients=1), ())

    def step(self, instance: Instance, state: State) -> State:
        params = call_host(self.function, state.params, instance.hparams, instance.batch)
        return State(params, instance.residual_norm(params), state.counts.plus(gradients=1), ())

    def refresh(self, instance: Instance, state: State) -> State:
        return state


def call_host(function: Callable[..., Params], params: Params, *args: PyTree) -> Params:
    """function(params, *args) on the host, with a result like ``params``."""
    params = jax.tree.map(jnp.asarray, params)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    return on_host(function, like, params, *args)
