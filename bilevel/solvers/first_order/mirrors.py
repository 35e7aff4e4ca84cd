"""The steps of mirror descent on the sets that it keeps to, in forms that are safe on their boundary."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.constraints import Free, NonNegative, Simplex
from bilevel.foundation import trees
from bilevel.foundation.typing import Params, PyTree
from bilevel.kernels.side_by_side import on_rows
from bilevel.optimality import Entropy, Geometry, MirrorDescent
from bilevel.penalties import Parts, Penalty, Zero, resolve
from bilevel.penalties.parts import is_penalty
from bilevel.solvers.instance import Instance

LEAST = 1e-10  # of a usual coordinate: a zero is lifted to this share of it, because a product with zero cannot grow


class Mirror(abc.ABC):
    """A way to step within a set; all methods act on whole params, or on the part that the set is for."""

    def feasible(self, params: Params) -> Params:
        """A start in the set."""
        return params

    def lifted(self, params: Params, gradient: PyTree) -> Params:
        """The params with the (almost) zeros raised that a multiplicative step could not raise and that should grow."""
        return params

    @abc.abstractmethod
    def step(self, params: Params, gradient: PyTree, t: jax.Array) -> Params:
        """The mirror descent step."""

    def slope(self, params: Params, gradient: PyTree) -> PyTree:
        """The gradient less what is constant along the set."""
        return gradient


@dataclass(frozen=True)
class Euclidean(Mirror):
    """The whole space: w - t g."""

    def step(self, params: Params, gradient: PyTree, t: jax.Array) -> Params:
        return trees.axpy(-t, gradient, params)


@dataclass(frozen=True)
class Orthant(Mirror):
    """{w >= 0} in the entropy sum of w log w - w: the step w exp(-t g)."""

    def feasible(self, params: Params) -> Params:
        return jax.tree.map(lambda w: jnp.maximum(w, 0), params)

    def lifted(self, params: Params, gradient: PyTree) -> Params:
        largest = jnp.max(jnp.stack([jnp.max(leaf, initial=0) for leaf in jax.tree.leaves(params)]))
        least = LEAST * jnp.where(largest > 0, largest, 1)

        def lift(w: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.where((w < least) & (g < 0), least, w).astype(w.dtype)

        return jax.tree.map(lift, params, gradient)

    def step(self, params: Params, gradient: PyTree, t: jax.Array) -> Params:
        return jax.tree.map(lambda w, g: (w * jnp.exp(-t * g)).astype(w.dtype), params, gradient)


@dataclass(frozen=True, eq=False)
class Rows(Mirror):
    """{w >= 0, sum of each row = total} in the entropy: the step total w exp(-t g) / sum(w exp(-t g))."""

    total: Any

    def feasible(self, params: Params) -> Params:
        return on_rows(_scaled, params, self.total)

    def lifted(self, params: Params, gradient: PyTree) -> Params:
        return on_rows(_lifted, params, gradient, self.total)

    def step(self, params: Params, gradient: PyTree, t: jax.Array) -> Params:
        return Entropy(self.total).step(params, gradient, t)

    def slope(self, params: Params, gradient: PyTree) -> PyTree:
        return on_rows(_centered, params, gradient)


@dataclass(frozen=True, eq=False)
class Given(Mirror):
    """The step of a user's mirror map and Bregman projection."""

    geometry: Geometry
    args: tuple

    def step(self, params: Params, gradient: PyTree, t: jax.Array) -> Params:
        return self.geometry.move(params, gradient, t, *self.args)


@dataclass(frozen=True, eq=False)
class Each(Mirror):
    """A product of sets, one for each part of the params."""

    parts: PyTree  # of mirrors

    def feasible(self, params: Params) -> Params:
        return self._each(lambda mirror, w: mirror.feasible(w), params)

    def lifted(self, params: Params, gradient: PyTree) -> Params:
        return self._each(lambda mirror, w, g: mirror.lifted(w, g), params, gradient)

    def step(self, params: Params, gradient: PyTree, t: jax.Array) -> Params:
        return self._each(lambda mirror, w, g: mirror.step(w, g, t), params, gradient)

    def slope(self, params: Params, gradient: PyTree) -> PyTree:
        return self._each(lambda mirror, w, g: mirror.slope(w, g), params, gradient)

    def _each(self, function: Callable[..., PyTree], *pieces: PyTree) -> PyTree:
        return jax.tree.map(function, self.parts, *pieces, is_leaf=lambda node: isinstance(node, Mirror))


def mirror_of(instance: Instance) -> Mirror | None:
    """The mirror of the problem's set, or of its condition where that states one; None where there is none."""
    condition = instance.mapping
    if instance.penalty.smooth and isinstance(condition, MirrorDescent):
        return Given(condition.geometry, (instance.hparams, instance.batch))
    return None if isinstance(instance.penalty, Zero | Free) else _of_set(instance.penalty, instance.hparams)


def _of_set(penalty: Penalty, hparams: Any) -> Mirror | None:
    if isinstance(penalty, Simplex):
        return Rows(resolve(penalty.scale, hparams))
    if isinstance(penalty, NonNegative):
        return Orthant()
    if isinstance(penalty, Zero | Free):
        return Euclidean()
    if not isinstance(penalty, Parts):
        return None
    mirrors = jax.tree.map(lambda part: _of_set(part, hparams), penalty.parts, is_leaf=is_penalty)
    whole = len(jax.tree.leaves(mirrors)) == len(jax.tree.leaves(penalty.parts, is_leaf=is_penalty))
    return Each(mirrors) if whole else None


def _centered(w: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient less its multiplier: adding a constant to a row changes nothing along the simplex, up to
    rounding."""
    size = jnp.sum(w, axis=-1, keepdims=True)
    return gradient - jnp.sum(w * gradient, axis=-1, keepdims=True) / jnp.where(size > 0, size, 1)


def _scaled(w: jax.Array, total: float | jax.Array) -> jax.Array:
    """A start on the simplex: negative weights become zero, rows are scaled, rows without weight uniform."""
    total = jnp.asarray(total, w.dtype)[..., None]
    positive = jnp.maximum(w, 0)
    size = jnp.sum(positive, axis=-1, keepdims=True)
    return jnp.where(size > 0, total * positive / jnp.where(size > 0, size, 1), total / w.shape[-1])


def _lifted(w: jax.Array, gradient: jax.Array, total: float | jax.Array) -> jax.Array:
    """w with its (almost) zeros raised where the multiplier has the sign that makes them grow."""
    total = jnp.asarray(total, w.dtype)[..., None]
    multiplier = jnp.sum(w * gradient, axis=-1, keepdims=True) / jnp.where(total > 0, total, 1)
    least = LEAST * total / w.shape[-1]
    return jnp.where((w < least) & (gradient < multiplier), least, w)
