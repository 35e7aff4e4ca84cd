"""Proximal operators made from others."""

from __future__ import annotations

from collections.abc import Callable

import jax

from bilevel.foundation.typing import PyTree


def from_projection(projection: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The prox of the indicator of a set: prox(point, step_size, *parameters) = projection(point, *parameters).

    >>> import jax.numpy as jnp
    >>> from bilevel.projections import box
    >>> from_projection(box)(jnp.array([-1.0, 2.0]), 0.1, 0.0, 1.0).tolist()
    [0.0, 1.0]
    """

    def prox(point: PyTree, step_size: PyTree = 1.0, *parameters: PyTree) -> PyTree:
        del step_size
        return projection(point, *parameters)

    return prox


def conjugate(prox: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The prox of the convex conjugate g*, from the prox of g (Moreau's identity).

    With prox(x, t, *weights) = argmin_y t g(y; weights) + ||y - x||^2 / 2, the result is

        conjugate(prox)(x, t, *weights) = argmin_y t g*(y; weights) + ||y - x||^2 / 2
                                        = x - t prox(x / t, 1 / t, *weights)

    where the conjugate g*(y; weights) = sup_x <x, y> - g(x; weights) is taken with the weights inside: the conjugate of
    w ||.||_1 is the indicator of {||y||_inf <= w}. ``step_size`` is a positive number.

    >>> import jax.numpy as jnp
    >>> from bilevel.prox import l1
    >>> conjugate(l1)(jnp.array([-3.0, 0.5]), 0.5, 2.0).tolist()
    [-2.0, 0.5]
    """

    def dual_prox(point: PyTree, step_size: float | jax.Array = 1.0, *weights: PyTree) -> PyTree:
        scaled = jax.tree.map(lambda x: x / step_size, point)
        primal = prox(scaled, 1 / step_size, *weights)
        return jax.tree.map(lambda x, p: x - (step_size * p).astype(p.dtype), point, primal)

    return dual_prox
