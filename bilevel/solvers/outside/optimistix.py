"""Optimistix's solvers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, Params
from bilevel.solvers.base import Solver, State, needs_smooth, settings
from bilevel.solvers.instance import Instance


def _default() -> Any:
    import optimistix  # imported where it is used, because that takes half a second

    return optimistix.BFGS(rtol=1e-8, atol=1e-8)


@settings
@dataclass(frozen=True)
class Optimistix(Solver):
    """w <- the result of an Optimistix solver: a minimiser on the loss, a root finder on the optimality condition, a
    fixed-point solver on w + F(w).

    A minimiser is used for a loss, and for a residual too (Optimistix then minimises its square). A step is one whole
    run of at most ``inner_steps`` steps with the solver's own rtol and atol. Optimistix stops on small changes; the
    residual is computed here, and ``max_steps`` runs are made at most, each from the last. Works under jit and vmap.
    Raises ValueError for penalties and sets, which Optimistix does not know.

    >>> import jax.numpy as jnp, optimistix, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum(jnp.cosh(w - h)), init=lambda key, h: jnp.zeros(2),
    ...                         solver=bl.Optimistix(optimistix.BFGS(rtol=1e-5, atol=1e-5), tol=1e-3))
    >>> inner.solve(jnp.array([1.0, 2.0]), None).params.round(2).tolist()
    [1.0, 2.0]
    """

    solver: Any = field(default_factory=_default)
    inner_steps: int = 1000
    max_steps: int = 5
    tol: float | jax.Array = 1e-6
    unrolls = False

    def init(self, instance: Instance, params: Params) -> State:
        return State(params, instance.residual_norm(params), Counts(gradients=1), ())

    def step(self, instance: Instance, state: State) -> State:
        function, run = self._problem(instance)
        solution = run(function, self.solver, state.params, max_steps=self.inner_steps, throw=False)
        params = solution.value
        gradients = solution.stats["num_steps"] + 1
        return State(params, instance.residual_norm(params), state.counts.plus(gradients=gradients), ())

    def refresh(self, instance: Instance, state: State) -> State:
        return state

    def refuse(self, instance: Instance) -> None:
        needs_smooth(self, instance)

    def _problem(self, instance: Instance) -> tuple[Any, Any]:
        """The function that Optimistix gets, and its entry point."""
        import optimistix

        if isinstance(self.solver, optimistix.AbstractFixedPointSolver):
            return lambda w, _: trees.axpy(1.0, instance.residual(w), w), optimistix.fixed_point
        if instance.mapping.states_loss and isinstance(self.solver, optimistix.AbstractMinimiser):
            return lambda w, _: instance.value(w), optimistix.minimise
        return lambda w, _: instance.residual(w), optimistix.root_find
