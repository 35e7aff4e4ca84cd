"""The fixed point of a mirror descent step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import jax

from bilevel.foundation.trees import axpy, subtract
from bilevel.foundation.typing import Counts, Params, PyTree, Scalar
from bilevel.implicit.mapping import Mapping, System
from bilevel.optimality.geometry import Geometry, Linearized
from bilevel.optimality.proximal_gradient import ProximalGradient, local_step, reduced_system, times


def no_mirror_map(params: Params) -> PyTree:
    """Stands in for the mirror map where a geometry has its own."""
    raise ValueError(
        "MirrorDescent got a Bregman projection and no mirror map: give the gradient of its potential, "
        "MirrorDescent(loss, projection, mirror_map), or a geometry such as bl.Entropy()."
    )


@dataclass(frozen=True, eq=False)
class Bregman(Geometry):
    """The step projection(mirror_map(w) - t g), for interior points."""

    projection: Callable[..., Params]
    mirror_map: Callable[[Params], PyTree]

    def move(self, params: Params, gradient: PyTree, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> Params:
        return self.projection(axpy(-t, gradient, self.mirror_map(params)), *args, **kwargs)

    def system(self, params: Params, of: Linearized, t: float | jax.Array, *args: PyTree, **kwargs: PyTree) -> System:
        dual, metric = jax.linearize(self.mirror_map, params)
        point = axpy(-t, of.gradient, dual)
        _, derivative = jax.linearize(lambda y: self.projection(y, *args, **kwargs), point)
        return reduced_system(derivative, lambda x: times(t, of.hessian(x)), of.owner, metric=metric)


@dataclass(frozen=True, eq=False)
class MirrorDescent(Mapping):
    """F(w, *args) = projection(mirror_map(w) - step_size grad loss(w, *args), *args) - w.

    Two forms. With functions: ``projection(dual_point, *args)`` is the Bregman projection of a potential phi and
    ``mirror_map(w)`` its gradient; for interior points only (the mirror map of the entropy is infinite at a zero). With
    P, M, H the derivatives of projection, mirror map and gradient, all symmetric, A = P (M - step H) - I is solved as

        (P - P (M - step H) P) y = -P (M - step H) b,      A^{-1} b = P y - b.

    With a geometry, ``MirrorDescent(loss, bl.Entropy())``: on each row of the simplex the multiplicative form on the
    support and -w off it, where the support is read from the projected gradient step. Solvers stop on the projected
    gradient residual, because F also vanishes where a zero coordinate has a multiplier of the wrong sign. At a fixed
    point, on the support, A x = -w <1, x> / scale - step P H x with P = diag(w) - w w' / scale, so that A x = b is the
    symmetric saddle system

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
    projection: Callable[..., Params] | Geometry
    mirror_map: Callable[[Params], PyTree] = no_mirror_map
    step_size: float | jax.Array = 1.0

    of_gradient: ClassVar[bool] = True
    iterates: ClassVar[bool] = True
    prox_calls: ClassVar[int] = 1
    localization: ClassVar[Counts] = ProximalGradient.localization
    inspection: ClassVar[Counts] = ProximalGradient.inspection

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.loss

    @property
    def geometry(self) -> Geometry:
        """The geometry given, or the one that projection and mirror map make."""
        given = self.projection
        return given if isinstance(given, Geometry) else Bregman(given, self.mirror_map)

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        gradient = jax.grad(self.loss)(params, *args, **kwargs)
        return subtract(self.geometry.move(params, gradient, self.step_size, *args, **kwargs), params)

    def natural_residual(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        gradient = jax.grad(self.loss)(params, *args, **kwargs)
        return subtract(self.geometry.natural(params, gradient, self.step_size, *args, **kwargs), params)

    def localize(self, params: Params, *args: PyTree, **kwargs: PyTree) -> MirrorDescent:
        params, args, kwargs = jax.lax.stop_gradient((params, args, kwargs))
        gradient, hessian = jax.linearize(lambda w: jax.grad(self.loss)(w, *args, **kwargs), params)
        return replace(self, step_size=jax.lax.stop_gradient(local_step(gradient, hessian, params)))

    def faces(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        gradient = jax.grad(self.loss)(params, *args, **kwargs)
        return self.geometry.faces(params, gradient, self.step_size, *args, **kwargs)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        gradient, hessian = jax.linearize(lambda w: jax.grad(self.loss)(w, *args, **kwargs), params)
        at = Linearized(gradient, hessian, str(self))
        return self.geometry.system(params, at, self.step_size, *args, **kwargs)

    def __str__(self) -> str:
        return f"MirrorDescent({getattr(self.loss, '__name__', 'loss')})"
