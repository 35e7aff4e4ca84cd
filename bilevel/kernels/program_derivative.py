"""The derivative of the solution of a dense quadratic program in its data."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from bilevel.kernels.saddle import solve_saddle


class Arguments(NamedTuple):
    """Of min 1/2 x'Qx + q'x, A x = b, G x <= h; ``usable`` is 1, or NaN where there is no solution."""

    Q: jax.Array
    q: jax.Array
    A: jax.Array
    b: jax.Array
    G: jax.Array
    h: jax.Array
    usable: jax.Array


@jax.custom_jvp
def moving(solution: tuple[jax.Array, ...], arguments: tuple) -> tuple[jax.Array, ...]:
    """The ``solution`` (x, y, z), unchanged in value, with its derivative in the `Arguments`, in both modes and to any
    order. By factors of Q and of its Schur complement on the rows with z > h - G x > 0; the derivative of least norm at
    degenerate solutions, NaN where ``usable`` is or where Q is singular along a direction that the derivative needs.

    >>> solution = (jnp.array([1.0]), jnp.zeros(0), jnp.array([2.0]))  # min 1/2 x^2 - 3 x, x <= h = 1
    >>> fixed = (jnp.eye(1), -3 * jnp.ones(1), jnp.zeros((0, 1)), jnp.zeros(0), jnp.eye(1))
    >>> jax.jacobian(lambda h: moving(solution, (*fixed, h, 1.0))[2])(jnp.ones(1)).tolist()
    [[-1.0]]
    """
    return solution


def _rule(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    at = x, y, z = moving(*primals)
    Q, _, A, b, G, h, usable = Arguments(*primals[1])
    moved = Arguments(
        *(jnp.zeros_like(p) if isinstance(t, SymbolicZero) else t for p, t in zip(primals[1], tangents[1], strict=True))
    )
    mask = jax.lax.stop_gradient((z > h - G @ x) & (z > 0)).astype(x.dtype)
    mask = jnp.where(jnp.isnan(usable), jnp.nan, mask)  # XLA makes a choice of a product with 0 or 1, which hides NaN
    top = -(0.5 * (moved.Q + moved.Q.T) @ x + moved.q + moved.A.T @ y + moved.G.T @ z)
    bottom = jnp.concatenate([moved.b - moved.A @ x, mask * (moved.h - moved.G @ x)])
    rows = jnp.concatenate([A, mask[:, None] * G])
    change, duals = solve_saddle(0.5 * (Q + Q.T), rows, top, bottom, strict=True)
    return at, (usable * change, usable * duals[: b.size], usable * duals[b.size :])


moving.defjvp(_rule, symbolic_zeros=True)
