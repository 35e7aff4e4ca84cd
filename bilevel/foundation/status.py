"""How a solve ended: one small vocabulary, from best to worst, for every solver and engine."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class Code(enum.IntEnum):
    """The ways a solve can end, ordered by severity."""

    converged = 0  # the residual met its tolerance
    truncated = 1  # stopped where it was asked to (Neumann, Nystrom, one step): not a failure
    stalled = 2  # at the floor of the precision: valid, with a wider error
    max_steps = 3  # out of steps before the tolerance was met
    indefinite = 4  # a curvature of the wrong sign was met where a definite system was promised
    singular = 5  # the system has no (unique) solution
    infeasible = 6  # the constraints contradict each other
    unbounded = 7  # the loss has no lower bound on the feasible set
    diverged = 8  # the residual grew beyond the start
    nonfinite = 9  # NaN or infinity appeared


REMEDIES = {
    Code.converged: "nothing to do",
    Code.truncated: "nothing to do: the method stops after a fixed number of terms by design",
    Code.stalled: "use float64 (precision=float64) if a smaller error is needed",
    Code.max_steps: "raise max_steps, loosen tol, or choose a solver that exploits the structure (bl.Auto())",
    Code.indefinite: "where the inner solve ended at a saddle, start it elsewhere or give it more steps; for a root "
    "whose derivative is indefinite use bl.MINRES(), bl.GMRES() or bl.Dense()",
    Code.singular: "add a regulariser to the inner loss, or use bl.Dense(), which gives the minimum-norm solution",
    Code.infeasible: "loosen the constraints: no point satisfies all of them",
    Code.unbounded: "add a constraint or a regulariser: the loss decreases without end",
    Code.diverged: "lower the step size or use a solver with a line search (bl.LBFGS(), bl.Newton())",
    Code.nonfinite: "look for logarithms, divisions or exponentials out of range in the loss, or lower the step size",
}


# What is claimed of a derivative and its error, from least to most: an order of magnitude; an estimate that is right
# where a Newton correction is; a theorem.
GRADES = ("residual", "estimate", "bound")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Status:
    """The outcome of a solve, as a pytree: it passes through jit and, lane by lane, through vmap.

    ``code`` is an integer array (see `Code`); ``name`` is readable where the code is concrete.

    >>> Status.of(Code.converged).name
    'converged'
    >>> Status.of(Code.converged).worse(Status.of(Code.max_steps)).name
    'max_steps'
    """

    code: jax.Array

    @classmethod
    def of(cls, code: int | jax.Array) -> Status:
        """A status from a `Code` or an integer array of codes."""
        return cls(jnp.asarray(code, jnp.int32))

    @property
    def name(self) -> str:
        """The code in words; of a batch, the worst one. Raises under a trace, where no value is known."""
        if isinstance(self.code, Tracer):
            raise ValueError("Status.name needs a concrete value: inside jit or vmap compare Status.code with bl.Code.")
        return Code(int(np.max(np.asarray(self.code)))).name

    @property
    def ok(self) -> jax.Array:
        """Whether the result can be used: converged, truncated by design, or stalled at the precision."""
        return self.code <= Code.stalled

    @property
    def no_solution(self) -> jax.Array:
        """Whether there is no solution, or nothing near it was found: then there is no derivative either."""
        return self.code >= Code.infeasible

    def worse(self, other: Status) -> Status:
        """The more severe of two statuses, lane by lane."""
        return Status(jnp.maximum(self.code, other.code))

    def __repr__(self) -> str:
        if isinstance(self.code, Tracer):
            return f"Status({self.code})"
        names = np.vectorize(lambda code: Code(int(code)).name, otypes=[object])(np.asarray(self.code))
        return f"Status({names.tolist()})" if names.ndim else f"Status({names.item()})"


class ConvergenceError(RuntimeError):
    """A solve failed and the engine's ``on_failure`` is ``"raise"``. Carries the report of the solve."""

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report
