"""What rounding contributes to the error of a hypergradient."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import Point
from bilevel.engines.implicit_function.linearization import Linearization
from bilevel.foundation import trees
from bilevel.foundation.signs import tree_of_signs
from bilevel.foundation.typing import HParams, Params, PyTree
from bilevel.implicit import Mapping

ROUNDING = 10  # units of roundoff in a gradient, relative to the sizes of its terms


class Noise(NamedTuple):
    """The contribution of rounding, as fractions of the parts of the error and in absolute terms."""

    inner: jax.Array
    adjoint: jax.Array
    residual: jax.Array
    cotangent: jax.Array
    gradient: jax.Array


def noise_of(point: Point, mapping: Mapping, at: Linearization, pulled: tuple[PyTree, HParams]) -> Noise:
    """The rounding of the residual is measured by another evaluation at parameters moved by one unit of roundoff. The
    rounding of adjoint and gradient follows from the sizes of the terms that were subtracted."""
    epsilon = trees.epsilon(at.params)
    again = mapping(perturbed(at.params, epsilon), point.hparams, point.inner_batch)
    residual = trees.norm(trees.subtract(again, at.residual))
    rest = trees.norm(trees.subtract(at.cotangent, pulled[0]))
    cotangent = epsilon * (trees.norm(at.cotangent) + trees.norm(pulled[0]))
    gradient = ROUNDING * epsilon * (trees.norm(at.direct) + trees.norm(pulled[1]))
    gradient += rounding_of(at.direct, epsilon) + rounding_of(pulled[1], epsilon)
    return Noise(fraction(residual, trees.norm(at.residual)), fraction(cotangent, rest), residual, cotangent, gradient)


def rounding_of(gradient: HParams, epsilon: float) -> jax.Array:
    """Two units of roundoff of each gradient leaf whose type is coarser than the params', whose unit is ``epsilon``.
    Half a unit is for rounding the result, the rest for the functions of hparams, each of which rounds once."""
    units = jax.tree.map(lambda leaf: max(2 * float(jnp.finfo(leaf.dtype).eps) - epsilon, 0.0), gradient)
    scaled = jax.tree.map(
        lambda leaf, unit: unit * leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), gradient, units
    )
    return trees.norm(scaled)


def perturbed(params: Params, epsilon: float) -> Params:
    """Each entry multiplied by 1 + epsilon or 1 - epsilon, as if at random."""
    return jax.tree.map(lambda leaf, sign: leaf * (1 + epsilon * sign), params, tree_of_signs(params))


def fraction(part: jax.Array, whole: jax.Array) -> jax.Array:
    """``part`` / ``whole``; 0 where there is no whole."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
