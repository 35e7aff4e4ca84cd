"""The states of JAXopt's solvers on bilevel's, and the problem that they solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.compat.jaxopt.functions import Objective
from bilevel.foundation.status import Code, Status
from bilevel.foundation.typing import Loss
from bilevel.implicit.mapping import Mapping
from bilevel.optimality import Stationary
from bilevel.penalties import Penalty, Zero
from bilevel.problem import no_loss
from bilevel.solvers import State as Inner


class State(NamedTuple):
    """What is known after some steps. ``inner`` is the state of bilevel's solver, which the next step needs."""

    iter_num: jax.Array
    error: jax.Array  # the norm of the optimality condition
    value: Any  # the function's value at the params, where the solver minimises
    aux: Any
    status: Status  # after `run` that of the solve, after `update` whether the step could be taken
    inner: Inner

    @property
    def stepsize(self) -> Any:
        """The last step size, of solvers that keep one."""
        return self._of_memory("step_size")

    @property
    def grad(self) -> Any:
        """The gradient at the params, of solvers that keep one."""
        return self._of_memory("gradient")

    @property
    def num_fun_eval(self) -> Any:
        """Gradients or residuals evaluated; a value comes with its gradient."""
        return self.inner.counts.gradients

    @property
    def num_grad_eval(self) -> Any:
        """Gradients or residuals evaluated."""
        return self.inner.counts.gradients

    @property
    def num_prox_eval(self) -> Any:
        """Proximal operators and projections evaluated."""
        return self.inner.counts.proxes

    @property
    def failed_linesearch(self) -> Any:
        """Whether the last search found no step."""
        return jnp.asarray(self.inner.code) == Code.stalled

    def _of_memory(self, name: str) -> Any:
        memory = self.inner.memory
        while isinstance(memory, tuple):
            if hasattr(memory, name):
                return getattr(memory, name)
            memory = next((part for part in memory if hasattr(part, "_fields")), None)
        raise AttributeError(f"this solver keeps no {name}: read error, iter_num, value, aux or status.")


@dataclass(frozen=True, eq=False)
class Statement:
    """What is minimised or solved, in the words of `bl.InnerProblem`; the batch is (args, kwargs)."""

    mapping: Mapping
    loss: Loss = no_loss
    penalty: Penalty = Zero()

    @classmethod
    def minimise(cls, objective: Objective) -> Statement:
        """A smooth function without constraints."""
        return cls(Stationary(objective.loss), objective.loss)
