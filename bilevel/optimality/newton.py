"""The fixed point of a Newton step: at a root its linear system is the identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jax.flatten_util import ravel_pytree

from bilevel.foundation.typing import LinearMap, Params, PyTree
from bilevel.implicit.mapping import Mapping, System, as_mapping
from bilevel.linear_solve.base import Operator, materialize


@dataclass(frozen=True, eq=False)
class Newton(Mapping):
    """F(w, *args) = -step_size [dG/dw]^{-1} G(w, *args), for a residual G (a function, or a mapping of the catalogue).

    At a root the derivative of the inverse multiplies G = 0, so A = dF/dw = -step_size I and the linear system needs no
    solve. The work is the inverse in B = -step_size [dG/dw]^{-1} dG/dh, which reuses the factor of dG/dw that the
    residual has made. The identity holds along the whole path of solutions w*(h), so derivatives of any order are
    right. At a point with G != 0 it is an approximation whose error is of the order of G.

    Builds the matrix of dG/dw: for up to a few thousand unknowns. Source: Blondel et al., 2021, equation (14).

    >>> import jax, jax.numpy as jnp, bilevel as bl
    >>> @bl.custom_root(bl.optimality.Newton(lambda w, theta: w**3 - theta))
    ... def cube_root(init, theta):
    ...     return jnp.cbrt(theta)
    >>> round(float(jax.grad(cube_root, argnums=1)(1.0, 8.0)), 5)
    0.08333
    >>> round(float(jax.hessian(cube_root, argnums=1)(1.0, 8.0)), 5)
    -0.00694
    """

    residual: Mapping | Callable[..., PyTree]
    step_size: float | jax.Array = 1.0

    iterates: ClassVar[bool] = True

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.residual

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        mapping = as_mapping(self.residual)
        value, derivative = jax.linearize(lambda w: mapping(w, *args, **kwargs), params)
        step = _direct_solve(derivative, value)
        return jax.tree.map(lambda leaf: -self.step_size * leaf, step)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        identity = Operator(lambda x: x, symmetric=True, definite=True, owner=str(self))
        divide = lambda rhs: jax.tree.map(lambda leaf: -leaf / self.step_size, rhs)
        return System(identity, divide, lambda _, solution: solution)

    def __str__(self) -> str:
        return f"Newton({getattr(self.residual, '__name__', self.residual)})"


def _direct_solve(operator: LinearMap, rhs: PyTree) -> PyTree:
    """operator^{-1} rhs by one LU factorisation, which derivatives of the result use again in both modes."""
    matrix, unravel = materialize(operator, rhs)
    factor = jax.lax.stop_gradient(jax.scipy.linalg.lu_factor(matrix))

    def matvec(flat: jax.Array) -> jax.Array:
        return ravel_pytree(operator(unravel(flat)))[0]

    def solve(_: LinearMap, flat: jax.Array) -> jax.Array:
        return jax.scipy.linalg.lu_solve(factor, flat)

    def solve_transposed(_: LinearMap, flat: jax.Array) -> jax.Array:
        return jax.scipy.linalg.lu_solve(factor, flat, trans=1)

    return unravel(jax.lax.custom_linear_solve(matvec, ravel_pytree(rhs)[0], solve, solve_transposed))
