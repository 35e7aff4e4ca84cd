"""How close the solution of a nonsmooth or constrained problem is to the next face."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.engines.base import UNKNOWN, Point
from bilevel.engines.implicit_function.linearization import Linearization
from bilevel.foundation import trees
from bilevel.foundation.typing import HParams, Params, PyTree
from bilevel.implicit import Mapping, Solve

CAUTION = 2.0  # a coordinate nearer to a kink than so many times its correction is weakly active
ROUNDING = 1e3  # units of roundoff below which a distance is zero


class Face(NamedTuple):
    """The face that a solution lies on, and the distance to the next one."""

    margin: jax.Array  # the smallest distance to a kink; infinity for smooth problems, NaN where it is not known
    weakly_active: jax.Array  # how many coordinates the error of the solution may move across a kink; -1: not known


def compare_faces(mapping: Mapping, point: Point, at: Linearization, moved: Linearization, longer: jax.Array) -> Face:
    """The face at ``at``.

    A coordinate is weakly active if the way to the solution takes it half of its distance or more. That way is
    ``longer`` than the step to ``moved`` by the given factor.
    """
    here = mapping.faces(at.params, point.hparams, point.inner_batch)
    there = mapping.faces(moved.params, point.hparams, point.inner_batch)

    def reach(before: jax.Array, after: jax.Array) -> jax.Array:
        movement = jnp.where(jnp.isinf(before) & jnp.isinf(after), 0, jnp.abs(after - before))
        return CAUTION * longer * movement

    return _within(here, jax.tree.map(reach, here, there), at.params)


def face_within(mapping: Mapping, point: Point, params: Params, distance: jax.Array) -> Face:
    """The face at ``params``; a coordinate within ``distance`` of a kink is weakly active. The cheapest look: nothing
    is known of the solution but how far it is."""
    here = mapping.faces(params, point.hparams, point.inner_batch)
    return _within(here, jax.tree.map(lambda leaf: jnp.broadcast_to(distance, leaf.shape), here), params)


def _within(distances: PyTree, reaches: PyTree, params: Params) -> Face:
    floor = ROUNDING * trees.epsilon(params) * (trees.norm(params) + trees.epsilon(params))
    near = jax.tree.map(lambda distance, reach: jnp.sum(distance <= reach + floor), distances, reaches)
    return _face(distances, jnp.asarray(sum(jax.tree.leaves(near)), jnp.int32))


def of_any_face(
    face: Face, error: jax.Array, adjoint: Solve, cotangent: PyTree, through: HParams, near: jax.Array | bool = True
) -> jax.Array:
    """The ``error`` of a gradient, raised where the solution may lie on another face, because there the derivative is
    another one.

    ``near`` the solution it is at least the part ``through`` the inner problem: nothing but its order of magnitude is
    known. On another face all of the cotangent may act, and not only the part that acts on this one, so that part is
    scaled up. Infinite far from the solution, and where nothing acts on this face.
    """
    size, part = trees.norm(through), trees.norm(adjoint.reduced)
    amplification = jnp.where(adjoint.amplification > 0, adjoint.amplification, 1)
    part = jnp.where(adjoint.amplification > 0, part / amplification, 0)  # the norm of the reduced cotangent
    whole = trees.norm(cotangent)
    size = size * jnp.where(part > 0, jnp.maximum(whole / jnp.where(part > 0, part, 1), 1), 1)
    size = jnp.where(near & ((size > 0) | (whole == 0)), size, jnp.inf)
    return jnp.where(face.weakly_active > 0, jnp.maximum(error, size), error)


def _face(distances: PyTree, weakly_active: jax.Array) -> Face:
    smallest = [jnp.min(leaf, initial=jnp.inf) for leaf in jax.tree.leaves(distances)]
    margin = jnp.min(jnp.stack([jnp.full((), jnp.inf), *smallest]))
    return Face(margin, jnp.where(jnp.isnan(margin), UNKNOWN, weakly_active).astype(jnp.int32))
