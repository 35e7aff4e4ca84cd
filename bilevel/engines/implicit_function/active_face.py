"""How close the solution of a nonsmooth or constrained problem is to the next face."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import UNKNOWN, Point
from bilevel.engines.implicit_function.linearization import Linearization
from bilevel.foundation import trees
from bilevel.implicit import Mapping

CAUTION = 2.0  # a coordinate nearer to a kink than so many times its correction is weakly active
ROUNDING = 1e3  # units of roundoff below which a distance is zero


class Face(NamedTuple):
    """The face that a solution lies on, and the distance to the next one."""

    margin: jax.Array  # the smallest distance to a kink; infinity for smooth problems, NaN where it is not known
    weakly_active: jax.Array  # how many coordinates the error of the solution may move across a kink; -1: not known


def compare_faces(mapping: Mapping, point: Point, at: Linearization, moved: Linearization) -> Face:
    """The face at ``at``.

    A coordinate is weakly active if the step to ``moved`` takes it half of its distance or more.
    """
    here = mapping.faces(at.params, point.hparams, point.inner_batch)
    there = mapping.faces(moved.params, point.hparams, point.inner_batch)
    floor = ROUNDING * trees.epsilon(at.params) * (trees.norm(at.params) + trees.epsilon(at.params))

    def near(before: jax.Array, after: jax.Array) -> jax.Array:
        movement = jnp.where(jnp.isinf(before) & jnp.isinf(after), 0, jnp.abs(after - before))
        return jnp.sum(before <= CAUTION * movement + floor)

    weakly_active = jnp.asarray(sum(jax.tree.leaves(jax.tree.map(near, here, there))), jnp.int32)
    return _face(here, weakly_active)


def _face(distances: object, weakly_active: jax.Array) -> Face:
    smallest = [jnp.min(leaf, initial=jnp.inf) for leaf in jax.tree.leaves(distances)]
    margin = jnp.min(jnp.stack([jnp.full((), jnp.inf), *smallest]))
    return Face(margin, jnp.where(jnp.isnan(margin), UNKNOWN, weakly_active).astype(jnp.int32))
