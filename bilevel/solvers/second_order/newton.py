"""Newton's method, for smooth losses and for residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.implicit.attach import solve_system_counted
from bilevel.implicit.prepare import asserted
from bilevel.linear_solve import AutoLinear, LinearSolver, Preconditioner
from bilevel.optimality import Stationary
from bilevel.solvers.base import SPARING, Solver, State, settings
from bilevel.solvers.instance import Instance

MAX_HALVINGS = 30


class Memory(NamedTuple):
    residual: PyTree
    inverse: (
        Preconditioner | None
    )  # the factor of the last step, or directions of its CG; none where a derivative is taken


class Trial(NamedTuple):
    step: jax.Array
    params: Params
    residual: PyTree
    norm: jax.Array


@settings
@dataclass(frozen=True)
class Newton(Solver):
    """w <- w - t A^{-1} F(w), A = dF/dw, t halved until ||F|| decreases (t = 1 near the solution: quadratic).

    F is the gradient of the loss, or the residual of a problem stated by `InnerProblem.from_residual`. Where F
    is the gradient and A^{-1} F no direction of ascent, the gradient takes its place.
    ``linear_solve`` solves the system; the default is direct for small problems, a Krylov method for large ones.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem.from_residual(lambda w, h, batch: w**3 - h, init=lambda key, h: jnp.ones(()),
    ...                                       solver=bl.Newton())
    >>> round(float(inner.solve(jnp.array(8.0), None).params), 4)
    2.0
    """

    max_steps: int = 100
    tol: float = 1e-10
    linear_solve: LinearSolver = AutoLinear()
    patience = 3

    def init(self, instance: Instance, params: Params) -> State:
        residual = instance.residual(params)
        like = jax.eval_shape(lambda: self._solve(instance, params, residual)[2])
        inverse = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        return State(params, trees.norm(residual), Counts(gradients=1), Memory(residual, inverse))

    def step(self, instance: Instance, state: State) -> State:
        residual = state.memory.residual
        solution, cost, inverse = self._solve(instance, state.params, residual)
        transposed = cost.add(SPARING).plus(hessian_products=1)  # another solve, and the derivative of A
        direction = jax.tree.map(jnp.negative, solution)
        if isinstance(instance.mapping, Stationary):
            descends = trees.dot(direction, residual) < 0
            direction = trees.select(descends, direction, jax.tree.map(jnp.negative, residual))

        def at(step: jax.Array) -> Trial:
            params = trees.axpy(step, direction, state.params)
            after = instance.residual(params)
            return Trial(step, params, after, trees.norm(after))

        def halve(carry: tuple[Trial, jax.Array]) -> tuple[Trial, jax.Array]:
            return at(0.5 * carry[0].step), carry[1] + 1

        def rejected(carry: tuple[Trial, jax.Array]) -> jax.Array:
            trial, trials = carry
            return ~(trial.norm <= (1 - 1e-4 * trial.step) * state.residual) & (trials < MAX_HALVINGS)

        first = at(jnp.ones_like(state.residual))
        if not instance.searches:
            counts = state.counts.add(cost).plus(gradients=1)
            return State(first.params, first.norm, counts, Memory(first.residual, inverse), derivative=transposed)
        trial, trials = jax.lax.while_loop(rejected, halve, jax.lax.stop_gradient((first, jnp.int32(1))))
        failed = trials >= MAX_HALVINGS
        if instance.differentiable:
            trial, trials = at(trial.step), trials + 1
        counts = state.counts.add(cost).plus(gradients=trials)
        code = jnp.where(failed, Code.stalled, Code.converged)
        params = trees.select(failed, state.params, trial.params)
        after = trees.select(failed, residual, trial.residual)
        norm = jnp.where(failed, state.residual, trial.norm)
        return State(params, norm, counts, Memory(after, inverse), code, transposed)

    def _solve(self, instance: Instance, params: Params, rhs: PyTree) -> tuple[PyTree, Counts, Preconditioner | None]:
        """A^{-1} rhs (NaN where the solve failed), what it cost, and what it found of A^{-1}."""
        system = instance.system(params)
        if instance.differentiable:
            return *solve_system_counted(system, self.linear_solve, rhs), None
        reduced = system.restrict(rhs)
        prepared = self.linear_solve.prepare(asserted(system.operator, self.linear_solve, rhs), reduced)
        found = prepared.solve(reduced)
        cost = Counts(
            hessian_products=prepared.products + found.products + system.products,
            factorizations=prepared.factorizations + found.factorizations,
        )
        value = jax.tree.map(lambda leaf: jnp.where(found.status.ok, leaf, jnp.nan), found.value)
        return system.extend(rhs, value), cost, prepared.inverse or found.inverse

    def approximate_inverse(self, instance: Instance, state: State) -> Preconditioner | None:
        """The last step's factor (not usable where there was none, or it was singular), or the directions of its CG."""
        return state.memory.inverse if isinstance(instance.mapping, Stationary) else None

    def refresh(self, instance: Instance, state: State) -> State:
        return self.init(instance, state.params)

    def refuse(self, instance: Instance) -> None:
        if not instance.penalty.smooth:
            raise ValueError(
                f"bl.Newton needs a smooth condition and would ignore {type(instance.penalty).__name__}. "
                "Use bl.ProximalGradient() or bl.Auto()."
            )
