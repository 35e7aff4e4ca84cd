"""The common part of the solvers of least squares."""

from __future__ import annotations

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params
from bilevel.losses.least_squares import LeastSquares
from bilevel.solvers.base import SPARING, Solver, State, needs_factors
from bilevel.solvers.instance import Instance
from bilevel.solvers.second_order.damped_step import retraced
from bilevel.solvers.second_order.lbfgsb import bounds
from bilevel.solvers.second_order.squares_model import (
    Aim,
    Control,
    Model,
    Point,
    evaluate,
    free,
    is_dense,
    linearize,
    scaled,
    search,
)


class Memory(NamedTuple):
    value: jax.Array
    gradient: jax.Array  # (n,)
    scale: jax.Array  # (n,): the longest column of the Jacobian so far, by which the coordinates are measured
    control: Control
    begin: jax.Array  # the residual at the start of the solve
    ends: tuple[jax.Array, jax.Array] | None  # the bounds of a box; None where there is none


class LeastSquaresSolver(Solver):
    """A solver that steps by the linear model of the residuals of a `bl.LeastSquares` loss, free or in a box. Abstract;
    the subclasses are final frozen dataclasses."""

    dense: int  # unknowns up to which the Jacobian is a matrix
    structured = True
    unrolls = False
    descends = True
    shards = False  # its factors are whole
    patience = 20
    keeps_value = True

    @abc.abstractmethod
    def first(self, like: jax.Array) -> Control:
        """The control before the first step."""

    @abc.abstractmethod
    def plan(self, model: Model, tol: jax.Array) -> tuple[Aim, jax.Array | int]:
        """The steps that the model has, as a function of the control, and the products that this cost; ``tol`` is for
        solves by products."""

    @abc.abstractmethod
    def adapt(self, control: Control, ratio: jax.Array, accepted: jax.Array, length: jax.Array) -> Control:
        """The control after a trial of this ``length`` whose decrease was ``ratio`` of the predicted one."""

    def init(self, instance: Instance, params: Params) -> State:
        needs_factors(self, params)
        ends = None
        if not instance.penalty.smooth:
            params = instance.prox(params, 1.0)
            lower, upper = bounds(instance, params)
            ends = ravel_pytree(lower)[0], ravel_pytree(upper)[0]
        x, unravel = ravel_pytree(params)
        point = evaluate(instance, x, unravel)
        control = self.first(point.residual)
        memory = Memory(point.value, point.gradient, jnp.zeros_like(x), control, point.residual, ends)
        return State(params, point.residual, Counts(gradients=1, proxes=0 if ends is None else 4), memory)

    def step(self, instance: Instance, state: State) -> State:
        memory = state.memory
        x, unravel = ravel_pytree(state.params)
        dense = is_dense(instance, state.params, self.dense)
        start = Point(x, memory.value, memory.gradient, state.residual.astype(x.dtype))
        rows = linearize(instance, x, unravel, dense)
        scale = jnp.maximum(memory.scale, rows.norms)  # the longest so far, because a column may vanish on the way
        scale = scale if instance.exact else jax.lax.stop_gradient(scale)
        units = jnp.where(scale > 0, scale, 1)
        model = scaled(rows, units, free(start, memory.ends))
        aim, planned = self.plan(model, forcing(start.residual, memory.begin))
        evaluated = lambda x: evaluate(instance, x, unravel)
        project = (lambda x: x) if memory.ends is None else (lambda x: jnp.clip(x, *memory.ends))
        found = search(
            evaluated, start, model.change, units, aim, self.adapt, memory.control, project, instance.searches
        )
        if instance.differentiable:
            by_matrix(self, dense)
            # By the projection itself, because the bounds in the memory have no derivative.
            project = lambda x: ravel_pytree(instance.prox(unravel(x), 1.0))[0]
            found = retraced(instance, start, model, units, memory.control, found, evaluated, self.adapt, project)
        products = x.size if dense else planned + found.products + found.trials
        cost = Counts(found.trials + 1, 0, products, found.trials, found.trials if dense else 0)
        return State(
            unravel(found.point.x),
            found.point.residual.astype(state.residual.dtype),
            state.counts.add(cost if memory.ends is not None else cost._replace(proxes=0)),
            memory._replace(value=found.point.value, gradient=found.point.gradient, scale=scale, control=found.control),
            jnp.where(found.accepted, Code.converged, Code.stalled),
            SPARING.plus(hessian_products=2),  # a product with the matrix of the step and its derivative
        )

    def refresh(self, instance: Instance, state: State) -> State:
        fresh = self.init(instance, state.params)
        known = {name: getattr(state.memory, name) for name in ("scale", "control", "begin")}
        return fresh._replace(memory=fresh.memory._replace(**known), counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        name = f"bl.{type(self).__name__}"
        if not isinstance(instance.loss, LeastSquares):
            raise ValueError(
                f"{name} needs the residuals, and the loss of this problem is a plain function: state it as "
                "bl.LeastSquares(residual=...), or use bl.Newton() or bl.Auto()."
            )
        if not instance.penalty.smooth and not (instance.penalty.is_set and instance.penalty.separable):
            raise ValueError(
                f"{name} keeps to a box by projection and would ignore {type(instance.penalty).__name__}. "
                "Use bl.ActiveSetNewton() or bl.Auto()."
            )


def by_matrix(solver: LeastSquaresSolver, dense: bool) -> None:
    """The refusal of derivatives through steps by products."""
    if not dense:
        raise ValueError(
            f"bl.{type(solver).__name__} differentiates its steps through a factor of the Jacobian, which this problem "
            f"is too large for (dense={solver.dense}): use bl.Implicit(), or a larger dense=."
        )


def forcing(residual: jax.Array, begin: jax.Array) -> jax.Array:
    """The relative tolerance of a solve by products: it falls with the gradient, so that convergence stays superlinear
    where the residuals vanish."""
    least = trees.epsilon(residual) ** 0.75
    return jnp.clip(residual / jnp.where(begin > 0, begin, 1), least, 1e-2)
