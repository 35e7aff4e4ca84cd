"""The accepted step of Levenberg and Marquardt once more, as a linear solve that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import LinearMap
from bilevel.kernels.orthogonal import damped_triangle
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import followed
from bilevel.solvers.second_order.squares_model import Adapt, Control, Model, Point, Trial, judged


def retraced(
    instance: Instance,
    start: Point,
    model: Model,
    scale: jax.Array,
    control: Control,
    found: Trial,
    evaluated: Callable[[jax.Array], Point],
    adapt: Adapt,
    project: LinearMap,
) -> Trial:
    """``found``, the step at ``control`` in units of ``scale``, with its derivative. The search for it has none.

    The damping that was accepted is a fixed multiple of the one that the step began with. Both are constants unless
    everything that leads to a step is differentiated, because at a solution the damping has no influence.
    """
    damping = followed(found.tried, control.size, instance)
    y = minimiser(model, damping)
    x = project(start.x + y / scale)
    point = evaluated(x)
    _, ratio = judged(start, point, -model.change((x - start.x) * scale))
    after = adapt(control._replace(size=damping), ratio, found.accepted, trees.norm(jax.lax.stop_gradient(y)))
    sizes = jnp.where(found.accepted, after.size, found.control.size) if instance.exact else found.control.size
    return found._replace(
        point=trees.select(found.accepted, point, start),
        control=found.control._replace(size=sizes),
        trials=found.trials + 1,
    )


def minimiser(model: Model, damping: jax.Array) -> jax.Array:
    """The y of least ||A y - b||^2 + damping ||y||^2, as the solution of its normal equations: their derivative is
    exact, and their factor is that of the stacked matrix, so that no digits are lost to A'A."""
    assert model.rows is not None, "a step by products has no derivative"
    factor = jax.lax.stop_gradient(damped_triangle(model.rows, damping))

    def solve(_: LinearMap, rhs: jax.Array) -> jax.Array:
        half = jax.scipy.linalg.solve_triangular(factor, rhs, trans="T")
        return jax.scipy.linalg.solve_triangular(factor, half)

    matvec = lambda y: model.pull(model.push(y)) + damping * y
    return jax.lax.custom_linear_solve(matvec, -model.slope, solve, solve, symmetric=True)
