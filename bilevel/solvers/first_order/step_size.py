"""Step sizes of first-order methods: fixed, a function of the hyperparameters, or found by backtracking."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.foundation import trees
from bilevel.foundation.typing import Params, PyTree
from bilevel.optimality.proximal_gradient import POWERS, inverse_norm
from bilevel.penalties import Parameter, resolve
from bilevel.solvers.instance import Instance
from bilevel.solvers.search import Found, search

BACKTRACKING = "backtracking"
MAX_HALVINGS = 60  # 2^-60 of any first trial is rounding
STABLE = 0.8  # a factor below 1, because a few powers find a norm of the Hessian that is a little too small
GROWTH = 1.25  # the next search begins at the last accepted step times this


class Trial(NamedTuple):
    """A forward-backward step that was accepted."""

    params: Params
    gradient: PyTree  # at ``params``
    step_size: jax.Array
    trials: jax.Array  # gradients evaluated


def first_step_size(step_size: Parameter, instance: Instance, params: Params, gradient: PyTree) -> jax.Array:
    """The given step size, or for backtracking an inverse Lipschitz estimate along the gradient."""
    if step_size != BACKTRACKING:
        return jnp.asarray(resolve(step_size, instance.hparams), trees.norm(params).dtype)
    size, slope = smooth_norm(params), smooth_norm(gradient)
    length = 1e-4 * (1.0 + size) / jnp.where(slope > 0, slope, 1.0)
    nearby = instance.gradient(trees.axpy(-length, gradient, params))
    change = smooth_norm(trees.subtract(nearby, gradient))
    estimate = length * slope / jnp.where(change > 0, change, 1.0)
    estimate = jnp.where(change > 0, estimate, 1.0)
    return estimate if instance.exact else jax.lax.stop_gradient(estimate)


def smooth_norm(tree: PyTree) -> jax.Array:
    """The norm, with derivative zero at zero."""
    zero = trees.norm(jax.lax.stop_gradient(tree)) == 0
    moved = jax.tree.map(lambda leaf: jnp.where(zero, jnp.ones_like(leaf), leaf), tree)
    return jnp.where(zero, 0.0, trees.norm(moved))


def steady(step_size: Parameter, last: jax.Array, instance: Instance, params: Params) -> tuple[jax.Array, int]:
    """The step size for steps without a search, and the products with the Hessian that it cost. It is the last step
    size that a search accepted, capped by a bound that is stable in all directions, because a search confirms its step
    along one direction only."""
    if step_size != BACKTRACKING or instance.searches:
        return last, 0
    stable = STABLE * inverse_norm(instance.hessian(jax.lax.stop_gradient(params)), params)
    return jax.lax.stop_gradient(jnp.minimum(last, stable)), POWERS


def backtrack(
    move: Callable[[jax.Array], Params], origin: Params, gradient: PyTree, step_size: jax.Array, instance: Instance
) -> Trial:
    """Halves the step until <grad(w+) - grad(w), w+ - w> <= ||w+ - w||^2 / step, w+ = move(step).

    For a quadratic this is the usual sufficient decrease. It is stated in gradients, so it does not stall at the
    rounding of function values. Differentiation passes through the accepted step, not through the search.
    """
    frozen = jax.lax.stop_gradient
    if not instance.searches:
        step_size = frozen(step_size) / GROWTH  # the last one, because nothing would stop its growth

    def at(step: jax.Array) -> tuple[Params, PyTree]:
        params = move(step)
        return params, instance.gradient(params)

    def flat(step: jax.Array, point: tuple[Params, PyTree]) -> jax.Array:
        params, after = point
        shift = trees.subtract(params, frozen(origin))
        curvature = trees.dot(trees.subtract(after, frozen(gradient)), shift)
        rounding = 8 * trees.epsilon(origin) * trees.norm(after) * trees.norm(shift)
        return jnp.isfinite(curvature) & (curvature <= trees.dot(shift, shift) / step + rounding)

    found = search(instance, at, flat, step_size, MAX_HALVINGS, lambda found: _informed(found, frozen(origin)))
    return Trial(*found.point, found.step, found.trials)


def _informed(found: Found[tuple[Params, PyTree]], origin: Params) -> jax.Array:
    """The accepted step size; it does not grow where the step was as small as rounding. There the search would accept
    any step size, and later steps and their derivatives would use one that no curvature has confirmed."""
    params, gradient = found.point
    length = trees.norm(trees.subtract(params, origin)) / found.step
    return jnp.where(length > 64 * trees.epsilon(origin) * trees.norm(gradient), 1.0, 1 / GROWTH) * found.step
