"""How far the derivative through a solver's steps has converged, measured by the influence of the start."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point
from bilevel.engines.implicit_function.linearization import localized
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Params
from bilevel.implicit import Mapping
from bilevel.task import Task


def left_over(ratio: jax.Array, size: jax.Array) -> jax.Array:
    """The size of the missing part of a sum, if the partial sum has the size ``size`` and the missing part is ``ratio``
    times the whole, as in a geometric series. Infinite where the ratio says that nothing converged."""
    return jnp.where(ratio < 1, ratio / jnp.where(ratio < 1, 1 - ratio, 1) * size, jnp.inf)


class Derivative(NamedTuple):
    """How far the derivative through the steps has converged."""

    residual: jax.Array | float  # the relative residual of its equation
    error: jax.Array | float  # of the gradient
    truncated: bool = False  # whether steps were left out by design: the error is then not known


LEFT_OUT = Derivative(0.0, 0.0, truncated=True)


def unexplained(task: Task, point: Point, params: Params, moved: Params, tangent: HParams) -> jax.Array:
    """||A moved + B tangent|| / ||B tangent||: 0 where ``moved`` is the derivative of the solution along
    ``tangent``."""
    mapping, _ = localized(task, point, params)
    residual = lambda w, h: mapping(w, h, point.inner_batch)
    _, pushed = jax.jvp(lambda h: residual(params, h), (point.hparams,), (tangent,))
    _, image = jax.jvp(lambda w: residual(w, point.hparams), (params,), (moved,))
    left = jax.tree.map(jnp.add, image, pushed)
    return relative(trees.norm(left), trees.norm(pushed))


def inspection(mapping: Mapping, directions: int) -> Counts:
    """The cost of `unexplained` in so many directions. Values of F count only where a prox has to find its face."""
    evaluations = 2 if mapping.prox_calls else 0
    values = Counts(gradients=evaluations, proxes=evaluations * mapping.prox_calls)
    return mapping.localization.add(values).plus(hessian_products=directions, jacobian_products=directions)


def relative(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), part)
