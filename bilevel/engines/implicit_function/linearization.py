"""Both levels linearised at inner parameters, for every implicit engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point
from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, HParams, Params, PyTree, Scalar
from bilevel.implicit import Mapping, PreparedSystem, prepare_system
from bilevel.linear_solve import LinearSolver
from bilevel.task import Task

PROBED = 0.1  # the share of the way to the solution over which the slope of the outer loss is compared


class Linearization(NamedTuple):
    """Both levels at ``params``, with first derivatives."""

    params: Params
    value: Scalar  # g
    cotangent: PyTree  # v = dg/dw
    direct: HParams  # dg/dh
    residual: PyTree  # F
    pull: Callable[[PyTree], tuple[PyTree, HParams]]  # u -> (A'u, B'u), a product with each


def linearize(task: Task, point: Point, params: Params, mapping: Mapping) -> Linearization:
    """The outer loss and the optimality condition at ``params``, with their derivatives."""
    hparams, inner_batch, outer_batch, _ = point
    value, (cotangent, direct) = jax.value_and_grad(task.outer, argnums=(0, 1))(params, hparams, outer_batch)
    residual, pull = jax.vjp(lambda w, h: mapping(w, h, inner_batch), params, hparams)
    return Linearization(params, value, cotangent, direct, residual, pull)


def evaluation_counts(mapping: Mapping) -> Counts:
    """The cost of one evaluation of the optimality condition."""
    return Counts(gradients=1, proxes=mapping.prox_calls)


def localized(task: Task, point: Point, params: Params) -> tuple[Mapping, Counts]:
    """The optimality condition in the form that is most accurate near ``params``, and the cost of finding that form."""
    mapping = task.inner.mapping
    return mapping.localize(params, point.hparams, point.inner_batch), mapping.localization


def prepared_system(
    point: Point, params: Params, mapping: Mapping, linear_solve: LinearSolver, both: bool
) -> tuple[PreparedSystem, Counts]:
    """The linear system at ``params`` with its solver, and the cost of setting it up."""
    system = mapping.system(params, point.hparams, point.inner_batch)
    prepared = prepare_system(system, linear_solve, params, both)
    shared = {"hessian_products": prepared.products, "factorizations": prepared.factorizations}
    return prepared, mapping.preparation.plus(**shared)


def adjoint_gradient(at: Linearization, pulled: HParams) -> HParams:
    """dg/dh - B'u, with ``pulled`` = B'u."""
    return trees.subtract(at.direct, pulled)


def distance_of(at: Linearization, amplification: jax.Array, inner: jax.Array) -> jax.Array:
    """The distance of ``params`` from the solution to first order, relative to the solution: ||F|| ||u|| / ||v|| over
    ||w||, with A'u = v (``amplification`` = ||u|| / ||v||).

    It is no less than the relative residual ``inner``. A solution at 0 has no size, so it is no more than the residual
    over the root of the roundoff."""
    params = trees.norm(at.params)
    distance = trees.norm(at.residual) * amplification
    distance = jnp.where(params > 0, distance / jnp.where(params > 0, params, 1), jnp.inf)
    return jnp.clip(distance, inner, inner / trees.epsilon(at.params) ** 0.5).astype(inner.dtype)


def slope_change(
    task: Task, point: Point, params: Params, cotangent: PyTree, residual: PyTree, reach: jax.Array
) -> jax.Array:
    """||v+ - v|| / ||v||: how much the slope v of the outer loss changes on a way as long as the way to the solution.

    The direction of that way is not known without a solve; ``-residual`` is taken in its place, and ``reach`` is its
    length. The change is measured over a tenth of the way, because the slope of a robust loss no longer changes far
    away. Infinite where v is zero and v+ is not.
    """
    size = trees.norm(residual)
    way = jnp.where(size > 0, reach / jnp.where(size > 0, size, 1), 0)
    moved = trees.axpy(-PROBED * way, residual, params)
    after = jax.grad(task.outer)(moved, point.hparams, point.outer_batch)
    change, slope = trees.norm(trees.subtract(after, cotangent)), trees.norm(cotangent)
    return jnp.where(change > 0, change / (PROBED * slope), jnp.where(jnp.isnan(change), jnp.inf, 0))


class Nearness(NamedTuple):
    """How near the params are to the solution, and the gradient there."""

    distance: jax.Array  # relative
    slope: jax.Array  # the relative change of the slope of the outer loss on that distance
    size: jax.Array  # the norm of the gradient
    through: jax.Array  # the norm of its part through the inner problem

    def error(self, left: jax.Array | float = 1.0) -> jax.Array:
        """The error of the gradient, where only the share ``left`` of the distance is left.

        The part ``through`` the inner problem is a product of the slope of the outer loss and of a derivative of the
        solution. Where they are off by the shares s and d, the product is off by the share d + s (1 + d). A small
        change of the params may be a large one of the slope, because the outer loss has its own curvature.
        """
        distance, slope = left * self.distance, left * self.slope
        error = distance * self.size + slope * (1 + distance) * self.through
        return jnp.where(jnp.isfinite(slope), error, jnp.inf)


def reach_of(at: Linearization, amplification: jax.Array, inner: jax.Array) -> jax.Array:
    """The distance of ``params`` from the solution to first order, not relative, because a solution at 0 has no size:
    ||F|| ||u|| / ||v||. Where no part of v acts on the face of ``params``, there is no u, and it is ||F|| itself."""
    far = trees.norm(at.residual) * jnp.where(amplification > 0, amplification, 1)
    return jnp.maximum(far, inner * trees.norm(at.params))
