"""Geometries of mirror descent: a mirror map and its Bregman projection, in a form that is safe on the boundary."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel import projections
from bilevel.foundation.typing import LinearMap, Params, PyTree
from bilevel.implicit.mapping import System
from bilevel.kernels.side_by_side import on_rows
from bilevel.linear_solve.base import Operator
from bilevel.penalties import Parameter, resolve
from bilevel.penalties.base import not_known
from bilevel.projections import kinks


class Geometry(abc.ABC):
    """A mirror descent step, and the linear system of its fixed point. ``args`` are the arguments of the condition,
    ``gradient`` is the gradient of the loss at ``params``, and t the step size."""

    @abc.abstractmethod
    def move(self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> Params:
        """The step from ``params``, of which the solution is a fixed point."""

    @abc.abstractmethod
    def system(self, params: Params, of: Linearized, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> System:
        """The system A x = b at a fixed point, A the derivative of the step without the identity."""

    def natural(
        self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree
    ) -> Params:
        """A step whose fixed points are exactly the solutions: the residual that solvers stop on."""
        return self.move(params, gradient, t, *args, **kwargs)

    def faces(self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """How far each coordinate is from where the derivative of the step jumps; NaN where that is not known."""
        return not_known(params)


class Linearized(NamedTuple):
    """The gradient of a loss at a point, with its derivative."""

    gradient: PyTree
    hessian: LinearMap
    owner: str  # of the system, for error messages


@dataclass(frozen=True, eq=False)
class Entropy(Geometry):
    """phi(w) = sum of w log w on the simplex {w: w >= 0, sum of w along the last axis = scale}.

    ``scale`` is a number, an array like the rows, or a function of the first argument of the condition after the
    params (in an inner problem: hparams). With the gradient g the mirror step and the Euclidean one are

        step(w, g, t)     = scale * w exp(-t g) / sum(w exp(-t g)),
        natural(w, g, t)  = the nearest point of the simplex to w - t g.

    The multiplicative form needs no logarithm, so w may have zeros, and it keeps them. The last axis is the simplex, on
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

    def move(self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> Params:
        """The step from the weights on the support of the projected gradient step."""
        on_support = _masked(self._support(params, gradient, t, args), params)
        return self.step(on_support, gradient, t, *args)

    def natural(
        self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree
    ) -> Params:
        """The projected gradient step, because `move` also keeps a zero whose multiplier has the wrong sign."""
        nearest = lambda w, g, total: projections.simplex(w - t * g, total)
        return on_rows(nearest, params, gradient, self._total(args))

    def faces(self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> PyTree:
        """The distance of the projection's input, coordinate by coordinate, from entering or leaving the support."""

        distance = lambda w, g, total: kinks.simplex(w - t * g, jnp.asarray(total, w.dtype))
        return on_rows(distance, params, gradient, self._total(args))

    def system(self, params: Params, of: Linearized, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> System:
        support = self._support(params, of.gradient, t, args)
        return _simplex_system(params, support, of.hessian, t, of.owner)

    def _support(self, params: Params, gradient: PyTree, t: float | jax.Array, args: tuple) -> PyTree:
        return jax.lax.stop_gradient(on_rows(_carried, self.natural(params, gradient, t, *args), params))

    def _total(self, args: tuple) -> PyTree:
        return resolve(self.scale, args[0] if args else None)


def multiplicative(weights: jax.Array, exponent: jax.Array, total: float | jax.Array = 1.0) -> jax.Array:
    """total * w exp(e) / sum(w exp(e)) along the last axis; exponents where w = 0 have no effect; NaN if all w are
    0."""
    carried = weights > 0
    largest = jnp.max(jnp.where(carried, exponent, -jnp.inf), axis=-1, keepdims=True)
    shift = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    grown = weights * jnp.exp(jnp.where(carried, exponent - shift, 0.0))
    total = jnp.asarray(total, grown.dtype)[..., None]
    return total * grown / jnp.sum(grown, axis=-1, keepdims=True)


def _simplex_system(params: Params, support: PyTree, hessian: LinearMap, step: float | jax.Array, owner: str) -> System:
    """The saddle system of `MirrorDescent`, in the null space of its constraint: x = D y + particular(b)."""

    def tangent(tree: PyTree) -> PyTree:
        return on_rows(_centered, tree, support)

    def particular(rhs: PyTree) -> PyTree:
        return on_rows(_shifted, rhs, support)

    def scaled_hessian(x: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: step * leaf, hessian(x))

    def restrict(rhs: PyTree) -> PyTree:
        slopes = jax.tree.map(_over_weights, support, rhs, params)
        return jax.tree.map(jnp.negative, tangent(jax.tree.map(jnp.add, slopes, scaled_hessian(particular(rhs)))))

    operator = Operator(
        lambda y: tangent(scaled_hessian(tangent(y))), symmetric=True, definite=True, singular=True, owner=owner
    )
    return System(operator, restrict, lambda rhs, y: jax.tree.map(jnp.add, tangent(y), particular(rhs)))


def _carried(projected: jax.Array, weights: jax.Array) -> jax.Array:
    """The entries where the projected step and the weights are positive.

    Far from a solution there may be none: then the entries where the weights are positive.
    """
    both = (projected > 0) & (weights > 0)
    return jnp.where(jnp.any(both, axis=-1, keepdims=True), both, weights > 0)


def _masked(support: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda on, leaf: jnp.where(on, leaf, 0), support, tree)


def _mean(on: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(on, x, 0), axis=-1, keepdims=True) / jnp.maximum(jnp.sum(on, axis=-1, keepdims=True), 1)


def _centered(x: jax.Array, on: jax.Array) -> jax.Array:
    """D x: the projection on the directions along the face."""
    return jnp.where(on, x - _mean(on, x), 0)


def _shifted(rhs: jax.Array, on: jax.Array) -> jax.Array:
    """A point with <1, x> = -<1, b> on the support and x = -b off it."""
    return jnp.where(on, -_mean(on, rhs), -rhs)


def _over_weights(on: jax.Array, rhs: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.where(on, rhs / jnp.where(on, weights, 1), 0)
