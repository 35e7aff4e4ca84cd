"""Whether a first-order point can be a minimum: the least curvature on its face."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.signs import signs
from bilevel.foundation.typing import Counts, LinearMap, Params, PyTree
from bilevel.linear_solve import materialize
from bilevel.losses.linear import Linear, design_of, stays_on_host
from bilevel.solvers.base import is_narrow
from bilevel.solvers.instance import Instance
from bilevel.solvers.lanczos import PRODUCTS, ROUNDS, by_matrix, by_products

FEW = 32  # unknowns up to which all curvatures are found, by a product for each
EVEN = 10.0  # columns of a design whose lengths differ by no more have one unit


class Curvature(NamedTuple):
    """The least curvature relative to the largest in absolute value, and a direction in params that has it."""

    least: jax.Array  # NaN: not examined, or examined in vain
    direction: PyTree
    step: PyTree  # Newton's, on the face
    vain: jax.Array  # whether it was examined and is not finite


def noise(params: Params) -> float:
    """A negative curvature below this share of the largest may be rounding."""
    return 100 * trees.epsilon(params)


def bends_down(curvature: jax.Array | None, params: Params) -> jax.Array | bool:
    """Whether a minimiser has to go on although the gradient is small: the point is no minimum, or its curvature was
    not examined. False where the solver never examines it (None)."""
    return False if curvature is None else ~(curvature >= -noise(params))


def refuted(curvature: jax.Array | None, params: Params) -> jax.Array | bool:
    """Whether the point is proved to be no minimum: the curvature is more negative than the error at a degenerate
    minimum explains."""
    return False if curvature is None else curvature < -(trees.epsilon(params) ** 0.5)


def order_of(curvature: jax.Array | float) -> str:
    """What is known of the point beside its gradient, in words; of a batch, the weakest statement."""
    return "first order" if np.any(np.isnan(np.asarray(curvature))) else "second order"


def can_look(instance: Instance) -> bool:
    """Whether the condition describes a minimum and has a symmetric system, made of products on the device."""
    return instance.mapping.of_gradient and not stays_on_host(instance.loss, instance.batch)


def least_curvature(instance: Instance, params: Params, uneven: bool | jax.Array = False) -> Curvature:
    """The least curvature of the reduced system at ``params``, and the step that solves it, by products: from the
    matrix for few unknowns, by Lanczos' method for many. ``uneven`` says that coordinates may have units of their own.
    NaN where the system is not known to be symmetric."""
    params, hparams, batch = jax.lax.stop_gradient((params, instance.hparams, instance.batch))
    like = trees.norm(params)
    # A short step keeps the face right where gradients are large beside params.
    mapping = instance.mapping.localize(params, hparams, batch)
    system = mapping.system(params, hparams, batch)
    if not (system.operator.symmetric and system.operator.definite):
        return unseen(params)
    residual = mapping.precise_residual(params, hparams, batch)
    rhs, unravel = ravel_pytree(system.restrict(residual))

    def product(x: jax.Array) -> jax.Array:
        return system.operator.sign * ravel_pytree(system.operator(unravel(x)))[0]

    if rhs.size <= FEW:
        seen = by_matrix(materialize(product, rhs)[0], system.operator.sign * rhs)
    else:
        seen = by_products(product, system.operator.sign * rhs, jnp.asarray(uneven))
    nothing = jax.tree.map(jnp.zeros_like, params)
    direction = system.extend(nothing, unravel(seen.direction))
    step = jax.tree.map(jnp.negative, system.extend(residual, unravel(seen.step)))
    least = seen.least.astype(like.dtype)
    return jax.lax.stop_gradient(Curvature(least, direction, step, ~jnp.isfinite(least)))


def is_told_by_predictions(instance: Instance, params: Params) -> bool:
    """Whether `convex_in_predictions` may tell that a point is a minimum: for a `bl.Linear` loss with an array as X,
    under a convex penalty, in float32 at least, and for more unknowns than those of which a matrix tells more."""
    loss = instance.stated or instance.loss
    if not (instance.complete and instance.penalty.convex and isinstance(loss, Linear)):
        return False
    design = loss.design(instance.batch)
    return (
        params.size > FEW and not is_narrow(params) and isinstance(design, jax.Array | np.ndarray) and design.size > 0
    )


def convex_in_predictions(instance: Instance, params: Params) -> jax.Array:
    """Whether loss(z, w) at z = X w is a sum of terms in single entries of z and w that bend up. Then the curvature of
    the objective is not negative, whatever X is, and one product with X is enough to know it.

    False too where the curvatures along the coordinates differ by much, because coordinates with units of their own
    need the step of Newton's method; and where the prox expands, as with a negative weight.
    """
    params, hparams, batch = jax.lax.stop_gradient((params, instance.hparams, instance.batch))
    loss = instance.stated or instance.loss
    design = jnp.asarray(design_of(loss, batch), params.dtype)
    at, unravel = ravel_pytree((design @ params, params))
    gradient = lambda x: ravel_pytree(jax.grad(loss.loss, argnums=(0, 1))(*unravel(x), hparams, batch))[0]
    bends, alone = _diagonal(gradient, at)
    by_predictions, by_params = unravel(bends)
    weigh = lambda column: jnp.sum(jnp.square(design) * column[:, None], axis=0)
    along = jax.vmap(weigh, 1, 1)(by_predictions.reshape(design.shape[0], -1)).reshape(params.shape) + by_params
    steepest, flattest = jnp.max(along), jnp.min(jnp.where(along > 0, along, jnp.inf))
    even = jnp.isfinite(steepest) & (steepest <= EVEN**2 * flattest)
    shrinks = ~_expands(instance, params) if may_expand(instance) else jnp.bool_(True)
    return alone & even & (jnp.min(bends) >= 0) & shrinks


def _diagonal(gradient: LinearMap, at: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The diagonal of the derivative of ``gradient``, and whether nothing beside it is there: products with numbers
    that all differ are then those of the entries, one by one."""
    _, product = jax.linearize(gradient, at)
    diagonal, alone = product(jnp.ones_like(at)), jnp.bool_(True)
    for frequency in (2.4, 1.7):  # two, because in float32 many numbers have an equal among many
        numbers = 1.5 + jnp.sin(1 + frequency * jnp.arange(at.size, dtype=at.dtype))
        image = product(numbers)
        rounding = 100 * jnp.finfo(at.dtype).eps * jnp.abs(image)
        alone &= jnp.all(jnp.abs(diagonal * numbers - image) <= rounding)
    return diagonal, alone


def may_expand(instance: Instance) -> bool:
    """Whether the sign of a weight decides if the prox of a penalty that is declared convex is that of a convex term;
    a projection has no weight."""
    return not (instance.penalty.is_set or instance.penalty.smooth)


def _expands(instance: Instance, params: jax.Array) -> jax.Array:
    """Whether the prox lengthens a direction, entry by entry where it has entries of their own; no convex term does."""
    probe = signs(params.shape, params.dtype)
    moved = jax.jvp(lambda point: instance.prox(point, 1.0), (params,), (probe,))[1]
    limit = 1 + noise(params)
    if instance.penalty.separable:
        return ~jnp.all(jnp.abs(moved) <= limit)
    return ~(trees.norm(moved) <= limit * trees.norm(probe))


def unseen(params: Params) -> Curvature:
    """The curvature where it was not examined."""
    return jax.lax.stop_gradient(
        Curvature(jnp.full_like(trees.norm(params), jnp.nan), params, params, jnp.bool_(False))
    )


def cost_of_a_look(instance: Instance, params: Params, uneven: jax.Array) -> Counts:
    """The cost of `least_curvature`, beside the gradient and the prox of a residual."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    products = size if size <= FEW else PRODUCTS + jnp.where(uneven, ROUNDS, 0)
    products += int(instance.mapping.prox_calls > 0)  # a reduced right-hand side takes one
    counts = instance.mapping.preparation.add(instance.mapping.localization).plus(hessian_products=products)
    return counts.plus(gradients=1, proxes=instance.mapping.prox_calls)
