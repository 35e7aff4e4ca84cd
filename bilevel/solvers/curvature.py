"""Whether a first-order point can be a minimum: the least curvature on its face, and the way down if it is negative."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.foundation import trees
from bilevel.foundation.typing import Counts, LinearMap, Params, PyTree, Scalar
from bilevel.linear_solve import materialize
from bilevel.losses.linear import stays_on_host
from bilevel.solvers.instance import Instance

FEW = 32  # unknowns up to which all curvatures are found, by a product for each
PRODUCTS = 12  # steps of Lanczos' method for more unknowns: finds -0.1 beside a thousand curvatures from 0 to 1
MAX_TRIALS = 30  # points on each side


class Curvature(NamedTuple):
    """The least curvature relative to the largest in absolute value, and a direction in params along which it
    occurs."""

    least: jax.Array  # NaN: not examined
    direction: PyTree
    broken: jax.Array | bool = False  # whether it was examined, and a product with the Hessian is no finite number


class Descent(NamedTuple):
    params: Params
    value: Scalar
    found: jax.Array
    trials: jax.Array


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
    """Whether the condition is that of a minimum and has a symmetric system, made of products on the device."""
    return instance.mapping.of_gradient and not stays_on_host(instance.loss, instance.batch)


def least_curvature(instance: Instance, params: Params) -> Curvature:
    """The least curvature of the reduced system at ``params``, by products: from all curvatures for few unknowns, by
    Lanczos' method from a fixed random vector for many. NaN where the system is not known to be symmetric."""
    params, hparams, batch = jax.lax.stop_gradient((params, instance.hparams, instance.batch))
    like = trees.norm(params)
    system = instance.mapping.system(params, hparams, batch)
    if not (system.operator.symmetric and system.operator.definite):
        return unseen(params)
    example = jax.eval_shape(system.restrict, params)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
    flat, unravel = ravel_pytree(zeros)

    def product(x: jax.Array) -> jax.Array:
        return system.operator.sign * ravel_pytree(system.operator(unravel(x)))[0]

    values, vector = _extremes(product, flat) if flat.size <= FEW else _lanczos(product, flat)
    largest = jnp.max(jnp.abs(values))
    least = jnp.minimum(values[0], 0) / jnp.where(largest > 0, largest, 1)
    nothing = jax.tree.map(jnp.zeros_like, params)
    direction = system.extend(nothing, unravel(vector))
    broken = ~jnp.all(jnp.isfinite(values))
    return jax.lax.stop_gradient(Curvature(least.astype(like.dtype), direction, broken))


def unseen(params: Params) -> Curvature:
    """The curvature where it was not examined."""
    return jax.lax.stop_gradient(Curvature(jnp.full_like(trees.norm(params), jnp.nan), params, jnp.bool_(False)))


def cost_of_a_look(instance: Instance, params: Params) -> Counts:
    """The cost of `least_curvature`."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return instance.mapping.preparation.plus(hessian_products=size if size <= FEW else PRODUCTS)


def _extremes(product: LinearMap, example: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = _eigenpairs(materialize(product, example)[0])
    return values, vectors[:, 0]


def _lanczos(product: LinearMap, example: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ritz values, ascending, and the vector of the least. Reference: Lanczos, 1950; orthogonalised in full."""
    start = jax.random.normal(jax.random.key(0), example.shape, example.dtype)
    tiny = jnp.finfo(example.dtype).tiny

    def body(number: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
        basis, images, vector = carry
        vector = vector / jnp.maximum(jnp.linalg.norm(vector), tiny)
        image = product(vector)
        basis, images = basis.at[number].set(vector), images.at[number].set(image)
        for _ in range(2):
            image = image - basis.T @ (basis @ image)
        left = jnp.linalg.norm(image) > 100 * jnp.finfo(image.dtype).eps * jnp.linalg.norm(images[number])
        return basis, images, jnp.where(left, image, 0)  # zero: the space is invariant, and all is known

    empty = jnp.zeros((PRODUCTS, example.size), example.dtype)
    basis, images, _ = jax.lax.fori_loop(0, PRODUCTS, body, (empty, empty, start))
    values, vectors = _eigenpairs(basis @ images.T)
    return values, basis.T @ vectors[:, 0]


def push(instance: Instance, params: Params, direction: PyTree, wanted: jax.Array) -> Descent:
    """A feasible point with a smaller objective on either side of ``params``, searched from far to near. ``found`` is
    False where there is none, or where none is ``wanted``."""
    params, direction = jax.lax.stop_gradient((params, direction))
    size, length = jnp.maximum(1, trees.norm(params)), trees.norm(direction)
    first = size / jnp.where(length > 0, length, 1)
    value = instance.objective(params)
    rounding = 10 * trees.epsilon(params) * jnp.abs(value)

    def attempt(descent: Descent) -> Descent:
        side = jnp.where(descent.trials % 2 == 0, 1, -1)
        step = side * first * 0.25 ** (descent.trials // 2)
        moved = instance.prox(trees.axpy(step, direction, params), 0.0)
        after = instance.objective(moved)
        return Descent(moved, after, after < value - rounding, descent.trials + 1)

    begin = Descent(params, value, ~wanted, jnp.int32(0))
    end = jax.lax.while_loop(lambda descent: ~descent.found & (descent.trials < 2 * MAX_TRIALS), attempt, begin)
    return jax.lax.stop_gradient(end._replace(found=end.found & wanted))


def _eigenpairs(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues of a symmetric matrix, in float32 at least, because LAPACK has no narrower types."""
    values, vectors = jnp.linalg.eigh(matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32)))
    return values.astype(matrix.dtype), vectors.astype(matrix.dtype)
