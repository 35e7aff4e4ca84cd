"""The fixed point of a mirror descent step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from bilevel.foundation.trees import axpy, subtract
from bilevel.foundation.typing import Counts, LinearMap, Params, PyTree, Scalar
from bilevel.implicit.mapping import Mapping, System
from bilevel.kernels.side_by_side import on_rows
from bilevel.linear_solve.base import Operator
from bilevel.optimality.geometry import Entropy
from bilevel.optimality.proximal_gradient import ProximalGradient, inverse_norm, reduced_system, times
from bilevel.penalties.base import not_known


def no_mirror_map(params: Params) -> PyTree:
    """Stands in for the mirror map where a geometry brings its own."""
    raise ValueError(
        "MirrorDescent got a Bregman projection and no mirror map: give the gradient of its potential, "
        "MirrorDescent(loss, projection, mirror_map), or a geometry such as bl.Entropy()."
    )


@dataclass(frozen=True, eq=False)
class MirrorDescent(Mapping):
    """F(w, *args) = projection(mirror_map(w) - step_size grad loss(w, *args), *args) - w.

    Two forms. With functions: ``projection(dual_point, *args)`` is the Bregman projection of a potential phi and
    ``mirror_map(w)`` its gradient; for interior points only (the mirror map of the entropy is infinite at a zero). With
    P, M, H the derivatives of projection, mirror map and gradient, all symmetric, A = P (M - step H) - I is solved as

        (P - P (M - step H) P) y = -P (M - step H) b,      A^{-1} b = P y - b.

    With a geometry, ``MirrorDescent(loss, bl.Entropy())``: on each row of the simplex the multiplicative form on the
    support and -w off it, where the support is that of the projected gradient step. What solvers stop on is
    the projected gradient residual, as F also vanishes where a zero coordinate has a multiplier of the wrong sign. At
    a fixed point, on the support, A x = -w <1, x> / scale - step P H x with P = diag(w) - w w' / scale, so that
    A x = b is the symmetric saddle system

        [step H   1] [x ]     [-b / w]
        [  1'     0] [mu]  =  [-<1, b>]

    solved in the tangent space of the face, where no weight of size w spoils its condition. Terms that vanish at the
    fixed point are left out: they vanish along the path of solutions, so derivatives of every order are right.
    Source: Blondel et al., 2021, equation (13).

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.MirrorDescent(lambda w, theta: 0.5 * jnp.sum((w - theta) ** 2), bl.Entropy())
    >>> F(jnp.array([0.75, 0.25, 0.0]), jnp.array([1.0, 0.5, -1.0])).tolist()
    [0.0, 0.0, 0.0]
    """

    loss: Callable[..., Scalar]
    projection: Callable[..., Params] | Entropy
    mirror_map: Callable[[Params], PyTree] = no_mirror_map
    step_size: float | jax.Array = 1.0

    prox_calls: ClassVar[int] = 1
    localization: ClassVar[Counts] = ProximalGradient.localization
    inspection: ClassVar[Counts] = ProximalGradient.inspection

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.loss

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        gradient = jax.grad(self.loss)(params, *args, **kwargs)
        if isinstance(self.projection, Entropy):
            on_support = _masked(self._support(self.projection, params, gradient, args), params)
            return subtract(self.projection.step(on_support, gradient, self.step_size, *args), params)
        dual_point = axpy(-self.step_size, gradient, self.mirror_map(params))
        return subtract(self.projection(dual_point, *args, **kwargs), params)

    def natural_residual(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        if not isinstance(self.projection, Entropy):
            return self(params, *args, **kwargs)
        gradient = jax.grad(self.loss)(params, *args, **kwargs)
        return subtract(self.projection.projected(params, gradient, self.step_size, *args), params)

    def localize(self, params: Params, *args: PyTree, **kwargs: PyTree) -> MirrorDescent:
        params, args, kwargs = jax.lax.stop_gradient((params, args, kwargs))
        _, hessian = jax.linearize(lambda w: jax.grad(self.loss)(w, *args, **kwargs), params)
        return replace(self, step_size=jax.lax.stop_gradient(inverse_norm(hessian, params)))

    def faces(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        if not isinstance(self.projection, Entropy):
            return not_known(params)
        gradient = jax.grad(self.loss)(params, *args, **kwargs)
        return self.projection.faces(params, gradient, self.step_size, *args)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        gradient, hessian = jax.linearize(lambda w: jax.grad(self.loss)(w, *args, **kwargs), params)
        project = self.projection
        if isinstance(project, Entropy):
            support = self._support(project, params, gradient, args)
            return _simplex_system(params, support, hessian, self.step_size, str(self))
        dual, metric = jax.linearize(self.mirror_map, params)
        point = axpy(-self.step_size, gradient, dual)
        _, derivative = jax.linearize(lambda y: project(y, *args, **kwargs), point)
        return reduced_system(derivative, lambda x: times(self.step_size, hessian(x)), str(self), metric=metric)

    def _support(self, geometry: Entropy, params: Params, gradient: PyTree, args: tuple) -> PyTree:
        projected = geometry.projected(params, gradient, self.step_size, *args)
        return jax.lax.stop_gradient(on_rows(_carried, projected, params))

    def __str__(self) -> str:
        return f"MirrorDescent({getattr(self.loss, '__name__', 'loss')})"


def _simplex_system(params: Params, support: PyTree, hessian: LinearMap, step: float | jax.Array, owner: str) -> System:
    """The saddle system of the docstring above, in the null space of its constraint: x = D y + particular(b)."""

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
    """Where the projected step and the weights are positive; far from a solution that may be nowhere: the weights'."""
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
