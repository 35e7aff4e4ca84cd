"""The method of Levenberg and Marquardt."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bilevel.kernels.lsmr import lsmr
from bilevel.kernels.orthogonal import damped
from bilevel.solvers.base import settings
from bilevel.solvers.second_order.least_squares import LeastSquaresSolver
from bilevel.solvers.second_order.squares_model import Aim, Control, Model

FIRST = 1.0  # relative to the squared lengths of the columns, because a Gauss-Newton step may end on a plateau
FAST, FASTEST = 0.1, 1e-4  # of the damping: what a good step leaves, and what a step exactly as predicted leaves


@settings
@dataclass(frozen=True)
class LevenbergMarquardt(LeastSquaresSolver):
    """w <- w + d with d the minimiser of ||C^(1/2) J d + C^(-1/2) rho' r||^2 + damping ||D d||^2.

    J is the Jacobian of a `bl.LeastSquares` loss and D holds the lengths of its columns. The damping follows the gain
    ratio, the decrease over the predicted one. It falls to a tenth after a good step, and further where the decrease
    was as predicted. While steps fail, it grows faster and faster. With up to ``dense`` unknowns d comes from a QR
    factorisation of the stacked matrix, with more from LSMR by products. In a box, coordinates at a bound that the
    gradient pushes against stay, and the step is projected. Raises ValueError for a plain loss, and for sets and
    penalties that are no box.
    Source: Marquardt, 1963; More, 1978; Nielsen, 1999.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> loss = bl.LeastSquares(lambda w, h, batch: w[0] * jnp.exp(-w[1] * batch[0]) - batch[1])
    >>> times = jnp.array([0.0, 1.0, 2.0])
    >>> inner = bl.InnerProblem(loss, lambda key, h: jnp.ones(2), solver=bl.LevenbergMarquardt(tol=1e-5))
    >>> inner.solve(None, (times, 2 * jnp.exp(-0.5 * times))).params.round(3).tolist()
    [2.0, 0.5]
    """

    max_steps: int = 1000
    tol: float | jax.Array = 1e-10
    dense: int = 512
    unrolls = True

    def first(self, like: jax.Array) -> Control:
        return Control(jnp.full_like(like, FIRST), jnp.full_like(like, 2.0))

    def plan(self, model: Model, tol: jax.Array) -> tuple[Aim, jax.Array | int]:
        rows = model.rows
        if rows is not None:
            return lambda control: (damped(rows, control.size), 0), 0
        most = 2 * min(model.rhs.size, model.slope.size)

        def aim(control: Control) -> tuple[jax.Array, jax.Array]:
            y, steps = lsmr(model.push, model.pull, model.rhs, control.size, tol, most)
            return y, 2 * steps

        return aim, 0

    def adapt(self, control: Control, ratio: jax.Array, accepted: jax.Array, length: jax.Array) -> Control:
        least = jnp.clip(10 * jnp.abs(1 - ratio), FASTEST, FAST)
        less = jnp.clip(1 - (2 * ratio - 1) ** 3, least, 2)
        size = control.size * jnp.where(accepted, less, control.growth)
        epsilon = float(jnp.finfo(size.dtype).eps)
        # With less damping rounding alone decides in a null space of J; with more, a step is below the digits of the
        # point.
        size = jnp.clip(size, epsilon**1.25, epsilon**-2.5)
        return Control(size, jnp.where(accepted, 2.0, 2 * control.growth).astype(size.dtype))
