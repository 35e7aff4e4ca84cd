"""Geometries of mirror descent: a mirror map and its Bregman projection, in a form that is safe on the boundary."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel import projections
from bilevel.foundation.typing import Params, PyTree
from bilevel.kernels.side_by_side import on_rows
from bilevel.penalties import Parameter, resolve
from bilevel.projections import kinks


@dataclass(frozen=True, eq=False)
class Entropy:
    """phi(w) = sum of w log w on the simplex {w: w >= 0, sum of w along the last axis = scale}.

    ``scale`` is a number, an array like the rows, or a function of the first argument of the condition after the
    params (in an inner problem: hparams). With the gradient g the mirror step and the Euclidean one are

        step(w, g, t)       = scale * w exp(-t g) / sum(w exp(-t g)),
        projected(w, g, t)  = the nearest point of the simplex to w - t g.

    The multiplicative form needs no logarithm, so w may have zeros, and keeps them. The last axis is the simplex, on
    which the leaves of a pytree stand side by side. Source: Beck and Teboulle, 2003.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> bl.Entropy().step(jnp.array([0.5, 0.5, 0.0]), jnp.array([0.0, jnp.log(3.0), -9.0]), 1.0).round(2).tolist()
    [0.75, 0.25, 0.0]
    """

    scale: Parameter = 1.0

    def step(self, params: Params, gradient: PyTree, step_size: float | jax.Array, *args: PyTree) -> Params:
        """The mirror descent step from ``params``."""
        move = lambda w, g, total: multiplicative(w, -step_size * g, total)
        return on_rows(move, params, gradient, self._total(args))

    def projected(self, params: Params, gradient: PyTree, step_size: float | jax.Array, *args: PyTree) -> Params:
        """The projected gradient step from ``params``: its fixed points are the solutions, and no others."""
        move = lambda w, g, total: projections.simplex(w - step_size * g, total)
        return on_rows(move, params, gradient, self._total(args))

    def faces(self, params: Params, gradient: PyTree, step_size: float | jax.Array, *args: PyTree) -> PyTree:
        """How far the input of the projection is, coordinate by coordinate, from entering or leaving the support."""

        move = lambda w, g, total: kinks.simplex(w - step_size * g, jnp.asarray(total, w.dtype))
        return on_rows(move, params, gradient, self._total(args))

    def _total(self, args: tuple) -> PyTree:
        return resolve(self.scale, args[0] if args else None)


def multiplicative(weights: jax.Array, exponent: jax.Array, total: float | jax.Array = 1.0) -> jax.Array:
    """total * w exp(e) / sum(w exp(e)) along the last axis, whatever the exponents where w = 0; NaN if all w are 0."""
    carried = weights > 0
    largest = jnp.max(jnp.where(carried, exponent, -jnp.inf), axis=-1, keepdims=True)
    shift = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    grown = weights * jnp.exp(jnp.where(carried, exponent - shift, 0.0))
    total = jnp.asarray(total, grown.dtype)[..., None]
    return total * grown / jnp.sum(grown, axis=-1, keepdims=True)
