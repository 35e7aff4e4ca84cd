"""The fixed point of a proximal (or projected) gradient step, and its symmetric reduced system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from bilevel.implicit.mapping import Mapping, System
from bilevel.linear_solve.base import Operator
from bilevel.trees import axpy, subtract
from bilevel.typing import LinearMap, Params, PyTree, Scalar


@dataclass(frozen=True, eq=False)
class ProximalGradient(Mapping):
    """F(w, *args) = prox(w - step_size grad loss(w, *args), step_size, *args) - w.

    ``prox(point, step_size, *args)`` is the proximal operator of the nonsmooth term. Any step size gives the same
    root; a step near 1/L keeps the active face right at inexact solutions. Source: Blondel et al., 2021, equation (7).

    With D the Jacobian of the prox (symmetric, positive semidefinite) and H the Hessian, A = D (I - step H) - I is not
    symmetric. It is solved through the symmetric positive semidefinite system on the range of D

        (D (I - D) + step D H D) y = -D (I - step H) b,      A^{-1} b = D y - b,

    which is right on every face, also when set or penalty depend on the arguments.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.ProximalGradient(
    ...     lambda w, theta: 0.5 * jnp.sum((w - theta) ** 2), lambda w, step, theta: bl.prox.l1(w, step, 1.0))
    >>> F(jnp.array([2.0, 0.0]), jnp.array([3.0, 0.5])).tolist()
    [0.0, 0.0]
    """

    loss: Callable[..., Scalar]
    prox: Callable[..., Params]
    step_size: float | jax.Array = 1.0

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        forward = axpy(-self.step_size, jax.grad(self.loss)(params, *args, **kwargs), params)
        return subtract(self.prox(forward, self.step_size, *args, **kwargs), params)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        gradient, hessian = jax.linearize(lambda w: jax.grad(self.loss)(w, *args, **kwargs), params)
        point = axpy(-self.step_size, gradient, params)
        _, derivative = jax.linearize(lambda z: self.prox(z, self.step_size, *args, **kwargs), point)
        return reduced_system(derivative, hessian, self.step_size, str(self))

    def __str__(self) -> str:
        return f"ProximalGradient({getattr(self.loss, '__name__', 'loss')})"


def reduced_system(derivative: LinearMap, hessian: LinearMap, step: float | jax.Array, owner: str) -> System:
    """The symmetric system of D (I - step H) - I on the range of D; see `ProximalGradient`."""

    def forward(x: PyTree) -> PyTree:
        return axpy(-step, hessian(x), x)

    def matvec(y: PyTree) -> PyTree:
        on_face = derivative(y)
        return subtract(on_face, derivative(forward(on_face)))

    def restrict(rhs: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: -leaf, derivative(forward(rhs)))

    def extend(rhs: PyTree, y: PyTree) -> PyTree:
        return subtract(derivative(y), rhs)

    return System(Operator(matvec, symmetric=True, definite=True, singular=True, owner=owner), restrict, extend)


@dataclass(frozen=True, eq=False)
class ProjectedGradient(Mapping):
    """F(w, *args) = projection(w - step_size grad loss(w, *args), *args) - w, for w in a convex set.

    The special case of `ProximalGradient` in which the prox is the Euclidean projection ``projection(point, *args)``.
    Source: Blondel et al., 2021, equation (9).

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.ProjectedGradient(
    ...     lambda w, theta: 0.5 * jnp.sum((w - theta) ** 2), lambda w, theta: bl.projections.non_negative(w))
    >>> F(jnp.array([3.0, 0.0]), jnp.array([3.0, -1.0])).tolist()
    [0.0, 0.0]
    """

    loss: Callable[..., Scalar]
    projection: Callable[..., Params]
    step_size: float | jax.Array = 1.0

    @property
    def proximal(self) -> ProximalGradient:
        """The same condition with the projection as a prox."""
        return ProximalGradient(self.loss, lambda point, step, *args, **kw: self.projection(point, *args, **kw), self.step_size)

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        return self.proximal(params, *args, **kwargs)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        return self.proximal.system(params, *args, **kwargs)

    def __str__(self) -> str:
        return f"ProjectedGradient({getattr(self.loss, '__name__', 'loss')})"
