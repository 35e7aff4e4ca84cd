"""Newton's method, for smooth losses and for residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params, PyTree
from bilevel.implicit.attach import solve_system_counted
from bilevel.implicit.prepare import asserted
from bilevel.kernels import trust_region
from bilevel.linear_solve import AutoLinear, LinearSolver, Preconditioner
from bilevel.linear_solve.preconditioners import CholeskyFactor
from bilevel.solvers.base import SPARING, Solver, State, needs_factors, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import search, stopped
from bilevel.solvers.second_order.quadratic_model import is_quadratic

MAX_HALVINGS = 30  # 2^-30 of a step is lost in the digits of most losses
MAX_HALVINGS_TO_A_ROOT = 100  # many, because a step to a root may be too long by any factor: exp(w) = 1e12 from -20
SUFFICIENT = 1e-4  # Armijo's constant
NEAR = 1e-2  # a step of this share of the point's size does not change the sign of the curvature


class Memory(NamedTuple):
    residual: PyTree
    inverse: (
        Preconditioner | None
    )  # the factor of the last step, or directions of its CG; None where a derivative is taken
    value: jax.Array  # the value of the loss; zero where there is no loss
    radius: jax.Array  # the radius within which the quadratic model is trusted; infinite until a step was too long


class Trial(NamedTuple):
    params: Params
    value: jax.Array
    residual: PyTree
    norm: jax.Array


@settings
@dataclass(frozen=True)
class Newton(Solver):
    """w <- w - A^{-1} F(w), A = dF/dw; quadratic convergence near the solution.

    Where F is the gradient of a loss, the loss has to fall. A direct ``linear_solve`` (the default up to 256 unknowns)
    has the matrix of A: Newton's step is taken where A is positive definite and the loss falls enough. Else the step is
    the minimiser of the quadratic model in a ball, which leaves saddles and maxima along negative curvature. With
    products (`bl.CG`) the step is the point that conjugate gradients reach before they meet negative curvature, or the
    gradient; it is halved until the loss falls. Where F is a residual (`InnerProblem.from_residual`), the step is
    halved until ||F|| decreases.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem.from_residual(lambda w, h, batch: w**3 - h, init=lambda key, h: jnp.ones(()),
    ...                                       solver=bl.Newton())
    >>> round(float(inner.solve(jnp.array(8.0), None).params), 4)
    2.0
    """

    max_steps: int = 100
    tol: float | jax.Array = 1e-10
    linear_solve: LinearSolver = AutoLinear()
    patience = 3
    keeps_value = True

    def init(self, instance: Instance, params: Params) -> State:
        needs_factors(self, params)
        value, residual = _evaluate(instance, params)
        like = jax.eval_shape(lambda: self._known_inverse(instance, params, residual))
        inverse = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        norm = trees.norm(residual)
        memory = Memory(residual, inverse, value, jnp.full_like(norm, jnp.inf))
        curvature = jnp.full_like(norm, jnp.nan) if self._builds(instance, residual) else None
        return State(params, norm, Counts(gradients=1), memory, curvature=curvature)

    def step(self, instance: Instance, state: State) -> State:
        if self._builds(instance, state.memory.residual):
            return self._descend(instance, state)
        residual = state.memory.residual
        solution, cost, inverse, sound = self._solve(instance, state.params, residual)
        transposed = cost.add(SPARING).plus(hessian_products=1)  # the cost of another solve and of the derivative of A
        direction = jax.tree.map(jnp.negative, solution)
        minimises = instance.mapping.stationary
        halvings = MAX_HALVINGS if minimises else MAX_HALVINGS_TO_A_ROOT
        if minimises:
            # Near a saddle or a maximum Newton's direction may ascend: the negative gradient replaces it.
            descends = trees.dot(direction, residual) < 0
            direction = trees.select(descends, direction, jax.tree.map(jnp.negative, residual))
        slope = jax.lax.stop_gradient(trees.dot(direction, residual))
        rounding = 10 * trees.epsilon(state.params) * jnp.abs(state.memory.value)

        def at(step: jax.Array) -> Trial:
            params = trees.axpy(step, direction, state.params)
            value, after = _evaluate(instance, params)
            return Trial(params, value, after, trees.norm(after))

        def falls(step: jax.Array, trial: Trial) -> jax.Array:
            accepted = trial.norm <= (1 - SUFFICIENT * step) * state.residual
            if minimises:
                accepted &= trial.value <= state.memory.value + rounding
                accepted |= trial.value <= state.memory.value + SUFFICIENT * step * slope
                accepted &= jnp.isfinite(trial.norm)
            return accepted

        found = search(instance, at, falls, jnp.ones_like(state.residual), halvings)
        before = Trial(state.params, state.memory.value, residual, state.residual)
        trial = trees.select(found.accepted, found.point, before)
        return state._replace(
            params=trial.params,
            residual=trial.norm,
            counts=state.counts.add(cost).plus(gradients=found.trials),
            memory=state.memory._replace(residual=trial.residual, inverse=inverse, value=trial.value),
            code=stopped(found.accepted, sound),
            derivative=transposed,
        )

    def _descend(self, instance: Instance, state: State) -> State:
        """A step that lowers the loss, with the matrix of the Hessian."""
        memory, operator = state.memory, instance.system(state.params).operator
        flat, unravel = ravel_pytree(state.params)
        gradient = ravel_pytree(memory.residual)[0]

        def evaluate(x: jax.Array) -> trust_region.Point:
            value, after = _evaluate(instance, unravel(x))
            return trust_region.Point(x, value, ravel_pytree(after)[0])

        matrix = self.linear_solve.matrix(operator, state.params)
        start = trust_region.Point(flat, memory.value, gradient)
        found = trust_region.descend(evaluate, start, matrix, memory.radius)
        point, trials, inverse = found.point, found.trials, CholeskyFactor(found.lower, found.definite)
        if instance.differentiable:
            # The accepted step once more, as a linear solve, because the search that found it has no derivative.
            matvec = lambda x: ravel_pytree(operator(unravel(x)))[0] + found.damping * x
            by_factor = lambda _, rhs: found.inverse(rhs)
            newton = jax.lax.custom_linear_solve(matvec, -gradient, by_factor, by_factor, symmetric=True)
            moved = evaluate(flat + newton + found.push)
            point, trials, inverse = trees.select(found.accepted, moved, start), trials + 1, None
        params = unravel(point.x)
        length = trees.norm(jax.lax.stop_gradient(point.x - flat))
        near = length <= NEAR * trees.norm(jax.lax.stop_gradient(point.x))
        looked = near if not is_quadratic(instance, state.params) else jnp.bool_(True)
        cost = Counts(hessian_products=len(matrix), factorizations=1 + found.decomposed)
        return State(
            params,
            jnp.where(found.accepted, trees.norm(point.gradient), state.residual),
            state.counts.add(cost).plus(gradients=trials),
            Memory(unravel(point.gradient), inverse, point.value, found.radius),
            stopped(found.accepted, jnp.all(jnp.isfinite(matrix))),
            SPARING.plus(hessian_products=1),  # the cost of the derivative of A
            jnp.where(looked, found.curvature, jnp.nan),
        )

    def _builds(self, instance: Instance, example: PyTree) -> bool:
        """Whether the step is made with the matrix of the Hessian: where the problem is to minimise and the linear
        solver has a matrix. Natural steps are not made with it. Nor are steps whose whole search is differentiated,
        because the damping of a ball is frozen while a halving is not.
        """
        if not instance.mapping.stationary or not instance.searches or instance.exact:
            return False
        return self.linear_solve.builds(instance.system(example).operator, example)

    def _known_inverse(self, instance: Instance, params: Params, residual: PyTree) -> Preconditioner | None:
        if not self._builds(instance, residual):
            return self._solve(instance, params, residual)[2]
        if instance.differentiable:
            return None
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        return CholeskyFactor(jnp.zeros((size, size), ravel_pytree(params)[0].dtype), jnp.bool_(False))

    def _solve(
        self, instance: Instance, params: Params, rhs: PyTree
    ) -> tuple[PyTree, Counts, Preconditioner | None, jax.Array | bool]:
        """A^{-1} rhs (NaN where the solve failed), its cost, the approximate inverse that it found, and whether A is
        finite."""
        system = instance.system(params)
        if instance.differentiable:
            return *solve_system_counted(system, self.linear_solve, rhs), None, True
        reduced = system.restrict(rhs)
        prepared = self.linear_solve.prepare(asserted(system.operator, self.linear_solve, rhs), reduced)
        found = prepared.solve(reduced)
        cost = Counts(
            hessian_products=prepared.products + found.products + system.products,
            factorizations=prepared.factorizations + found.factorizations,
        )
        usable = found.status.ok | instance.mapping.stationary  # the point that CG reached before descends
        value = jax.tree.map(lambda leaf: jnp.where(usable, leaf, jnp.nan), found.value)
        sound = found.status.code != Code.nonfinite
        return system.extend(rhs, value), cost, prepared.inverse or found.inverse, sound

    def approximate_inverse(self, instance: Instance, state: State) -> Preconditioner | None:
        """The last step's factor (not usable where there was none, or it was singular), or the directions of its CG."""
        return state.memory.inverse if instance.mapping.stationary else None

    def refresh(self, instance: Instance, state: State) -> State:
        return self.init(instance, state.params)

    def refuse(self, instance: Instance) -> None:
        if not instance.penalty.smooth:
            raise ValueError(
                f"bl.Newton needs a smooth condition and would ignore {type(instance.penalty).__name__}. "
                "Use bl.ProximalGradient() or bl.Auto()."
            )


def _evaluate(instance: Instance, params: Params) -> tuple[jax.Array, PyTree]:
    """The value of the loss, which is never differentiated, and its gradient; the residual where there is no loss."""
    if not instance.mapping.stationary:
        return jnp.zeros(()), instance.residual(params)
    value, gradient = jax.value_and_grad(instance.mapping.stated)(params, instance.hparams, instance.batch)
    return jax.lax.stop_gradient(value), gradient
