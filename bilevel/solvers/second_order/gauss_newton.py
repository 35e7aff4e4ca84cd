"""The method of Gauss and Newton."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.kernels.lsmr import lsmr
from bilevel.kernels.orthogonal import minimum_norm
from bilevel.solvers.base import settings
from bilevel.solvers.second_order.least_squares import LeastSquaresSolver
from bilevel.solvers.second_order.squares_model import Aim, Control, Model


def whole_step(model: Model, tol: jax.Array) -> tuple[jax.Array, jax.Array | int]:
    """The step of least norm to the minimiser of the model, and the products that it cost."""
    if model.rows is not None:
        return minimum_norm(model.rows), 0
    most = 2 * min(model.rhs.size, model.slope.size)
    y, steps = lsmr(model.push, model.pull, model.rhs, jnp.zeros_like(tol), tol, most)
    return y, 2 * steps


@settings
@dataclass(frozen=True)
class GaussNewton(LeastSquaresSolver):
    """w <- w + t d with d the minimiser of ||C^(1/2) J d + C^(-1/2) rho' r||^2, of least norm in the lengths of J's
    columns where there are several.

    The step is halved until the loss falls. One step solves a linear problem; far from a solution, or where columns of
    J are nearly dependent, `bl.LevenbergMarquardt` is the safer choice. Up to ``dense`` unknowns by orthogonal factors
    of J, beyond by LSMR; in a box steps are projected, as by `bl.LevenbergMarquardt`.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.LeastSquares(lambda w, h, batch: jnp.array([w[0] + w[1] - 2.0, w[0] - w[1]]))
    >>> found = bl.InnerProblem(loss, lambda key, h: jnp.zeros(2), solver=bl.GaussNewton()).solve(None, None)
    >>> found.params.round(3).tolist(), int(found.steps)
    ([1.0, 1.0], 1)
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-10
    dense: int = 512

    def first(self, like: jax.Array) -> Control:
        return Control(jnp.ones_like(like), jnp.ones_like(like))

    def plan(self, model: Model, tol: jax.Array) -> tuple[Aim, jax.Array | int]:
        whole, products = whole_step(model, tol)
        return lambda control: (control.size * whole, 0), products

    def adapt(self, control: Control, ratio: jax.Array, accepted: jax.Array, length: jax.Array) -> Control:
        return control._replace(size=jnp.where(accepted, 1, 0.5 * control.size))
