"""FIRE: molecular dynamics with a brake, the usual minimiser of the energies of particle systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.solvers.base import Solver, State, needs_smooth, settings
from bilevel.solvers.instance import Instance

GROWTH, SHRINKAGE = 1.1, 0.5  # the factors of the time step: while the motion goes downhill, and when it does not
PATIENCE = 5  # downhill steps before the time step grows
MIXING, DECAY = 0.1, 0.99  # the share of the velocity that is turned towards the force, and its decay


class Memory(NamedTuple):
    gradient: PyTree
    velocity: PyTree
    time_step: jax.Array
    mixing: jax.Array
    downhill: jax.Array  # steps in a row


@settings
@dataclass(frozen=True)
class FIRE(Solver):
    """w'' = -grad loss(w) by velocity Verlet; the velocity is turned towards the force, and zero where it goes uphill.

        v <- v + mixing (|v| f/|f| - v),  f = -grad loss(w);      if <f, v> <= 0: v <- 0 and dt <- dt/2

    For smooth losses whose scale suits the ``time_step``, which grows up to ``largest``. The brake makes the steps a
    discontinuous function of the loss, so derivatives through them need not converge; take the derivative of the
    minimum (`bl.Implicit`). Source: Bitzek et al., 2006.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2),
    ...                         solver=bl.FIRE(tol=1e-5))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(3).tolist()
    [1.0, 2.0]
    """

    max_steps: int = 5000
    tol: float | jax.Array = 1e-8
    time_step: float = 0.1
    largest: float = 0.4

    def init(self, instance: Instance, params: Params) -> State:
        gradient = instance.gradient(params)
        rest = jax.tree.map(jnp.zeros_like, params)
        dtype = trees.norm(params).dtype
        memory = Memory(
            gradient, rest, jnp.asarray(self.time_step, dtype), jnp.asarray(MIXING, dtype), jnp.zeros((), jnp.int32)
        )
        return State(params, trees.norm(gradient), Counts(gradients=1), memory)

    def step(self, instance: Instance, state: State) -> State:
        gradient, velocity, time_step, mixing, downhill = state.memory
        half = trees.axpy(-0.5 * time_step, gradient, velocity)
        params = trees.axpy(time_step, half, state.params)
        after = instance.gradient(params)
        velocity = trees.axpy(-0.5 * time_step, after, half)
        power = -trees.dot(after, velocity)
        speed, force = _norm(velocity), _norm(after)
        turned = -mixing * speed / jnp.where(force > 0, force, 1.0)
        velocity = jax.tree.map(lambda v, g: ((1 - mixing) * v + turned * g).astype(v.dtype), velocity, after)
        onward = power > 0
        downhill = jnp.where(onward, downhill + 1, 0)
        faster = onward & (downhill > PATIENCE)
        time_step = jnp.where(faster, jnp.minimum(GROWTH * time_step, self.largest), time_step)
        time_step = jnp.where(onward, time_step, SHRINKAGE * time_step)
        mixing = jnp.where(onward, jnp.where(faster, DECAY * mixing, mixing), MIXING)
        velocity = jax.tree.map(lambda v: jnp.where(onward, v, 0), velocity)
        memory = Memory(after, velocity, time_step, mixing, downhill)
        return State(params, trees.norm(after), state.counts.plus(gradients=1), memory)

    def refresh(self, instance: Instance, state: State) -> State:
        memory = state.memory._replace(gradient=instance.gradient(state.params))
        return state._replace(memory=memory, counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)


def _norm(tree: PyTree) -> jax.Array:
    """The norm, with a derivative of zero at zero."""
    square = trees.dot(tree, tree)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
