"""Newton's method in a box, by the minimiser of the quadratic model in a ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.status import Code
from bilevel.foundation.typing import Counts, Params
from bilevel.kernels.trust_region import Spectrum, damped_inverse, minimiser_within
from bilevel.solvers.base import Solver, State, needs_factors, settings
from bilevel.solvers.instance import Instance
from bilevel.solvers.second_order.lbfgsb import bounds
from bilevel.solvers.second_order.squares_model import Control, Point, evaluate, free, resized, search


class Memory(NamedTuple):
    value: jax.Array
    gradient: jax.Array  # (n,)
    scale: jax.Array  # (n,): the root of the largest curvature of each coordinate so far, which measures it
    radius: jax.Array  # of the ball in which the model is trusted; infinite until a step was too long
    ends: tuple[jax.Array, jax.Array]  # the bounds


@settings
@dataclass(frozen=True)
class ProjectedNewton(Solver):
    """w <- project(w + d) on a box, with d the minimiser of grad loss'd + d'Hd/2 over ||D d|| <= radius.

    Coordinates at a bound that the gradient pushes against stay. H is the Hessian of the others, as a matrix: for a few
    hundred unknowns at most. D holds the roots of its diagonal, the largest so far. The loss has to fall by a share of
    what the model promises for the projected step; the radius follows that share. So the method descends from any start
    of a loss that is not convex, leaves saddles along negative curvature, and ends as fast as Newton's. For `bl.Box`
    and every other set that is a box; raises ValueError otherwise.
    Source: Conn, Gould and Toint, 1988; Bertsekas, 1982.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> inner = bl.InnerProblem(loss=lambda w, h, batch: jnp.sum(jnp.cosh(w - h)), init=lambda key, h: jnp.zeros(2),
    ...                         constraint=bl.Box(upper=1.5), solver=bl.ProjectedNewton(tol=1e-5))
    >>> [round(float(w), 3) for w in inner.solve(jnp.array([1.0, 2.0]), None).params]
    [1.0, 1.5]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-10
    unrolls = False
    descends = True
    shards = False  # its factors are whole
    patience = 20
    keeps_value = True

    def init(self, instance: Instance, params: Params) -> State:
        needs_factors(self, params)
        params = instance.prox(params, 1.0)
        x, unravel = ravel_pytree(params)
        lower, upper = bounds(instance, params)
        point = evaluate(instance, x, unravel)
        ends = ravel_pytree(lower)[0], ravel_pytree(upper)[0]
        memory = Memory(point.value, point.gradient, jnp.zeros_like(x), jnp.full_like(point.residual, jnp.inf), ends)
        return State(params, point.residual, Counts(gradients=1, proxes=4), memory)

    def step(self, instance: Instance, state: State) -> State:
        memory = state.memory
        x, unravel = ravel_pytree(state.params)
        start = Point(x, memory.value, memory.gradient, state.residual.astype(x.dtype))
        hessian = jax.hessian(lambda x: instance.value(unravel(x)).astype(x.dtype))(x)
        scale = jnp.maximum(memory.scale, jnp.sqrt(jnp.abs(jnp.diagonal(hessian))))
        units = jnp.where(scale > 0, scale, 1)
        moves = free(start, memory.ends)
        inverse = jnp.where(moves, 1 / units, 0)
        matrix = inverse[:, None] * hessian * inverse[None, :]
        slope = inverse * memory.gradient
        spectrum = Spectrum(*jnp.linalg.eigh(matrix + jnp.diag(jnp.where(moves, 0, 1).astype(x.dtype))))
        size = jnp.maximum(1, trees.norm(units * x))
        endless = ~(spectrum.values[0] > x.size * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(spectrum.values)))
        radius = jnp.where(jnp.isinf(memory.radius) & endless, size, memory.radius)

        def aim(control: Control) -> tuple[jax.Array, int]:
            damping, push = minimiser_within(spectrum, slope, control.size)
            return push - damped_inverse(spectrum, damping, slope), 0

        found = search(
            lambda x: evaluate(instance, x, unravel),
            start,
            lambda y: slope @ y + 0.5 * y @ (matrix @ y),
            units,
            aim,
            resized,
            Control(radius, jnp.ones_like(radius)),
            lambda x: jnp.clip(x, *memory.ends),
            terms=jnp.abs(x @ (hessian @ x)),
        )
        cost = Counts(found.trials, x.size, 0, found.trials, 1)
        return State(
            unravel(found.point.x),
            found.point.residual.astype(state.residual.dtype),
            state.counts.add(cost),
            Memory(found.point.value, found.point.gradient, scale, found.control.size, memory.ends),
            jnp.where(found.accepted, Code.converged, Code.stalled),
        )

    def refresh(self, instance: Instance, state: State) -> State:
        fresh = self.init(instance, state.params)
        kept = fresh.memory._replace(scale=state.memory.scale, radius=state.memory.radius)
        return fresh._replace(memory=kept, counts=state.counts.plus(gradients=1))

    def refuse(self, instance: Instance) -> None:
        if not (instance.penalty.is_set and instance.penalty.separable):
            raise ValueError(
                f"bl.ProjectedNewton minimises a smooth loss in a box and would ignore "
                f"{type(instance.penalty).__name__}. Use bl.ActiveSetNewton(), bl.Newton() or bl.Auto()."
            )
