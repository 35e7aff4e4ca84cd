"""What rounding contributes to the error of a hypergradient."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point
from bilevel.engines.implicit_function.linearization import Linearization, evaluation_counts, linearize
from bilevel.foundation import trees
from bilevel.foundation.signs import tree_of_signs
from bilevel.foundation.typing import Counts, HParams, Params, PyTree
from bilevel.implicit import Mapping, Solve
from bilevel.task import Task

Pulled = tuple[PyTree, HParams]  # (A'u, B'u)

SINGLE = 1e-10  # a unit of roundoff above it is that of single precision or less
ROUNDING = 10  # units of roundoff in a gradient, relative to the sizes of its terms


class Noise(NamedTuple):
    """The contribution of rounding, as fractions of the parts of the error and in absolute terms."""

    inner: jax.Array
    adjoint: jax.Array
    residual: jax.Array
    cotangent: jax.Array
    gradient: jax.Array


def noise_of(task: Task, point: Point, mapping: Mapping, at: Linearization, adjoint: Solve, pulled: Pulled) -> Noise:
    """The rounding of the residual is measured by another evaluation at parameters moved by one unit of roundoff. The
    rounding of adjoint and gradient follows from the sizes of the terms that were subtracted, and in single precision
    from the same evaluation."""
    epsilon = trees.epsilon(at.params)
    near = perturbed(at.params, epsilon)
    cotangent = epsilon * (trees.norm(at.cotangent) + trees.norm(pulled[0]))
    gradient = ROUNDING * epsilon * (trees.norm(at.direct) + trees.norm(pulled[1]))
    gradient += rounding_of(at.direct, epsilon) + rounding_of(pulled[1], epsilon)
    if epsilon > SINGLE:
        again = linearize(task, point, near, mapping)
        residual = trees.norm(trees.subtract(again.residual, at.residual))
        gradient += scatter(at, again, outer_scatter(task, point, at), adjoint.value, pulled)
    else:
        residual = trees.norm(trees.subtract(mapping(near, point.hparams, point.inner_batch), at.residual))
    rest = trees.norm(trees.subtract(at.cotangent, pulled[0]))
    return Noise(fraction(residual, trees.norm(at.residual)), fraction(cotangent, rest), residual, cotangent, gradient)


def cost_of_noise(mapping: Mapping, at: Linearization) -> Counts:
    """The cost of `noise_of`: the condition once more, and in single precision its derivatives too."""
    derivatives = 1 if trees.epsilon(at.params) > SINGLE else 0
    return evaluation_counts(mapping).plus(
        gradients=derivatives, hessian_products=derivatives, jacobian_products=derivatives
    )


def scatter(
    at: Linearization, again: Linearization, outer: tuple[PyTree, HParams], adjoint: PyTree, pulled: Pulled
) -> jax.Array:
    """How far the rounding of the params and of the derivatives at them scatters the gradient, to first order, by the
    linearization ``again`` at params moved by a unit of roundoff, and the changes ``outer`` of the outer gradient.

    The terms that cancel in a slope or a second derivative may be far larger than the result. A change of the adjoint
    equation A'u = v passes on to the gradient as v itself does: by ||B'u|| / ||v||. The outer gradient is looked at
    twice, because a sum may round to the same number once more.
    """
    left, right = again.pull(adjoint)
    cotangent, direct = trees.subtract(again.cotangent, at.cotangent), trees.subtract(again.direct, at.direct)
    equation = trees.norm(trees.subtract(cotangent, trees.subtract(left, pulled[0])))
    through = fraction(trees.norm(pulled[1]), trees.norm(at.cotangent))
    beside = trees.norm(trees.subtract(direct, trees.subtract(right, pulled[1])))
    return through * (equation + trees.norm(outer[0])) + beside + trees.norm(outer[1])


def outer_scatter(task: Task, point: Point, at: Linearization) -> tuple[PyTree, HParams]:
    """The changes of the outer gradient in params and in hparams, at params moved the other way."""
    near = perturbed(at.params, -trees.epsilon(at.params))
    cotangent, direct = jax.grad(task.outer, argnums=(0, 1))(near, point.hparams, point.outer_batch)
    return trees.subtract(cotangent, at.cotangent), trees.subtract(direct, at.direct)


def rounding_of(gradient: HParams, epsilon: float) -> jax.Array:
    """Two units of roundoff of each gradient leaf whose type is coarser than the params', whose unit is ``epsilon``.
    Half a unit is for rounding the result, the rest for the functions of hparams, each of which rounds once."""
    units = jax.tree.map(lambda leaf: max(2 * float(jnp.finfo(leaf.dtype).eps) - epsilon, 0.0), gradient)
    scaled = jax.tree.map(
        lambda leaf, unit: unit * leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), gradient, units
    )
    return trees.norm(scaled)


def perturbed(params: Params, epsilon: float) -> Params:
    """Each entry multiplied by 1 + 2 epsilon or by 1, as if at random.

    The mean of these moves is not zero, so that sums move by a unit of their own roundoff where their terms add up and
    not only where they cancel.
    """
    return jax.tree.map(lambda leaf, sign: leaf * (1 + epsilon * (1 + sign)), params, tree_of_signs(params))


def fraction(part: jax.Array, whole: jax.Array) -> jax.Array:
    """``part`` / ``whole``; 0 where there is no whole."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
