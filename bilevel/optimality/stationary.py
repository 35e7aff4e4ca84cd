"""Stationarity of a smooth loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax

from bilevel.foundation.typing import Params, PyTree, Scalar
from bilevel.implicit.mapping import Mapping, System
from bilevel.linear_solve import Operator
from bilevel.losses.least_squares import linearized


@dataclass(frozen=True, eq=False)
class Stationary(Mapping):
    """F(w, *args) = grad loss(w, *args), the optimality condition of a smooth unconstrained minimisation.

    A is the Hessian: symmetric, and positive semidefinite at a minimum (a solver that meets negative curvature says
    so).
    Source: Blondel et al., 2021, equation (4).

    >>> import jax.numpy as jnp, bilevel as bl
    >>> F = bl.optimality.Stationary(lambda w, theta: 0.5 * jnp.sum((w - theta) ** 2))
    >>> F(jnp.array([3.0]), jnp.array([1.0])).tolist()
    [2.0]
    """

    loss: Callable[..., Scalar]

    of_gradient: ClassVar[bool] = True
    stationary: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    downhill: ClassVar[int] = -1

    @property
    def stated(self) -> Callable[..., PyTree]:
        return self.loss

    def __call__(self, params: Params, *args: PyTree, **kwargs: PyTree) -> PyTree:
        return jax.grad(self.loss)(params, *args, **kwargs)

    def system(self, params: Params, *args: PyTree, **kwargs: PyTree) -> System:
        at = linearized(self.loss, params, *args, **kwargs)
        operator = Operator(at.hessian, symmetric=True, definite=True, owner=str(self))
        return System(operator, lambda rhs: rhs, lambda _, solution: solution, approximate=at.approximate)

    def __str__(self) -> str:
        return f"Stationary({getattr(self.loss, '__name__', 'loss')})"
