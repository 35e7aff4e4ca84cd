"""A solver is settings, a start and a step; the loop in loop.py drives it."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation.settings import settings as settings
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params
from bilevel.linear_solve import Preconditioner
from bilevel.solvers.instance import Instance

# The cost of a step's derivative in one direction. SPARING is the cost where the step ends with the gradient that the
# next step begins with, because that gradient is saved.
ONE = Counts(hessian_products=1, jacobian_products=1)
SPARING = ONE.plus(gradients=-1)


class State(NamedTuple):
    """The values that the next step needs and that the stopping rule reads."""

    params: Params
    residual: jax.Array  # the norm of the natural residual, at ``params`` or at the last checked iterate
    counts: Counts
    memory: Any  # the solver's own
    code: jax.Array | int = Code.converged  # anything worse stops the loop
    derivative: Counts = ONE  # the cost of the last step's derivative; a saved gradient counts as -1
    # The least curvature near ``params`` relative to the largest, where it is negative, else 0. NaN: this step did not
    # look. None: the solver never looks, so the loop looks at the end of the solve.
    curvature: jax.Array | None = None

    def settled(self) -> State:
        """The state with its bookkeeping in the types that a loop carries, and no derivative in its residual."""
        return self._replace(
            residual=jax.lax.stop_gradient(self.residual),
            counts=self.counts.as_arrays(),
            code=jnp.asarray(self.code, jnp.int32),
            derivative=self.derivative.as_arrays(),
            curvature=jax.lax.stop_gradient(self.curvature),
        )


class Solver(abc.ABC):
    """How w* is found. Abstract; the subclasses are final frozen dataclasses whose tolerance is a pytree leaf."""

    max_steps: int
    tol: float | jax.Array  # stop at ||F(w)|| <= tol * ||F(init)||
    __dataclass_fields__: ClassVar[dict[str, Any]]  # tells type checkers that `dataclasses.replace` takes every solver
    patience: ClassVar[int] = 100  # steps without progress at the floor of the precision before the solve is stalled
    takes_functions: ClassVar[bool] = False  # whether it solves problems that are constrained by functions
    structured: ClassVar[bool] = False  # whether it reads the parts of a `bl.Linear`, so that nothing may wrap the loss
    shards: ClassVar[bool] = True  # whether it is written in products, which JAX spreads over devices
    unrolls: ClassVar[bool] = True  # whether derivatives through the steps make sense
    descends: ClassVar[bool] = False  # whether each step lowers the loss: then a gradient that grows is no divergence
    keeps_value: ClassVar[bool] = False  # whether the memory's ``value`` is the objective, which each step lowers
    keeps_gradient: ClassVar[bool] = True  # whether a step ends with the gradient that the next begins with

    @property
    def budget(self) -> int:
        """The steps of a training, which is not stopped at a solution; 0: the solver looks for a solution."""
        return 0

    @abc.abstractmethod
    def init(self, instance: Instance, params: Params) -> State:
        """The state at the start."""

    @abc.abstractmethod
    def step(self, instance: Instance, state: State) -> State:
        """One step."""

    @abc.abstractmethod
    def refresh(self, instance: Instance, state: State) -> State:
        """The state at ``state.params`` with fresh gradients and the same step sizes and curvature. One more step from
        it depends on the instance as the solver's map does."""

    def approximate_inverse(self, instance: Instance, state: State) -> Preconditioner | None:
        """An approximate inverse of the system at ``state.params`` that the state contains; None where it has none."""
        return None

    def last_step_size(self, state: State) -> jax.Array | float:
        """The step size of the last step, where a search changes it from step to step. Near a solution the step is
        proportional to it, so that the quotient is a smooth map of the params alone."""
        return 1.0

    def refuse(self, instance: Instance) -> None:  # noqa: B027  # most solvers refuse nothing
        """Raises ValueError where the solver cannot do the problem; called once, before any work."""

    def choose(self, instance: Instance, params: Params) -> tuple[Solver, str]:
        """The solver that does the work, and the reason: itself, unless it chooses among others."""
        return self, "chosen by hand"


def needs_smooth(solver: Solver, instance: Instance) -> None:
    """The refusal that all solvers without a prox share."""
    if not instance.penalty.smooth:
        raise ValueError(
            f"bl.{type(solver).__name__} minimises smooth losses only and would ignore "
            f"{type(instance.penalty).__name__}. Use bl.ProximalGradient() or bl.Auto()."
        )


def is_narrow(params: Params) -> bool:
    """Whether a leaf is of a type that no matrix factorisation takes: bfloat16, float16."""
    return any(jnp.result_type(leaf).itemsize < 4 for leaf in jax.tree.leaves(params))


def needs_factors(solver: Solver, params: Params) -> None:
    """The refusal of the solvers that factorise matrices of the type of the params."""
    if is_narrow(params):
        kinds = ", ".join(sorted({str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)}))
        raise ValueError(
            f"bl.{type(solver).__name__} factorises matrices, and there is none in {kinds}, the type of the "
            "params: return float32 params from init, or use bl.LBFGS()."
        )


def needs_fixed_point(solver: Solver, instance: Instance) -> None:
    """The refusal of the solvers that iterate w <- T(w)."""
    if not instance.mapping.iterates:
        raise ValueError(
            f"bl.{type(solver).__name__} iterates a map T, and {instance.mapping} is not of the form T(w) - w. State "
            "the problem by bl.InnerProblem.from_fixed_point, or use bl.Newton() or bl.Broyden()."
        )
