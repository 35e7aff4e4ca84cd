"""JAXopt's ``stepsize``: 0 for a search, a number, or a function of the number of steps taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from bilevel.foundation.settings import changed, settings
from bilevel.foundation.typing import Params
from bilevel.solvers import Instance, Solver, State
from bilevel.solvers.first_order.step_size import BACKTRACKING


class Counted(NamedTuple):
    """The memory of the scheduled solver, and the number of its steps."""

    memory: Any
    number: jax.Array


@settings
@dataclass(frozen=True)
class Scheduled(Solver):
    """A solver whose step size is ``schedule(k)`` in step k. The solver keeps it in its memory as ``step_size``."""

    solver: Solver
    schedule: Callable[[jax.Array], float | jax.Array]
    max_steps: int = 1000
    tol: float | jax.Array = 1e-8

    @property
    def keeps_gradient(self) -> bool:  # type: ignore[override]  # a fact of the solver, not of this class
        return self.solver.keeps_gradient

    def init(self, instance: Instance, params: Params) -> State:
        state = self.solver.init(instance, params)
        return state._replace(memory=Counted(state.memory, jnp.int32(0)))

    def step(self, instance: Instance, state: State) -> State:
        memory, number = state.memory
        size = jnp.asarray(self.schedule(number), memory.step_size.dtype)
        after = self.solver.step(instance, state._replace(memory=memory._replace(step_size=size)))
        return after._replace(memory=Counted(after.memory, number + 1))

    def refresh(self, instance: Instance, state: State) -> State:
        after = self.solver.refresh(instance, state._replace(memory=state.memory.memory))
        return after._replace(memory=Counted(after.memory, state.memory.number))

    def refuse(self, instance: Instance) -> None:
        self.solver.refuse(instance)


def stepping(solver: Solver, stepsize: float | jax.Array | Callable[[jax.Array], float | jax.Array]) -> Solver:
    """``solver`` with JAXopt's step size."""
    if callable(stepsize):
        return Scheduled(changed(solver, step_size=1.0), stepsize)
    # A traced number is taken as a step size, because its sign is not known.
    searched = not isinstance(stepsize, Tracer) and stepsize <= 0
    return changed(solver, step_size=BACKTRACKING if searched else stepsize)
