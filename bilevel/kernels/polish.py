"""The last digits of a dense quadratic program: Newton steps on its optimality conditions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Point = tuple[jax.Array, jax.Array, jax.Array]  # x, y, z


def newton_step(program: tuple[jax.Array, ...], at: Point) -> Point:
    """What is to be subtracted from (x, y, z) so that Q x + q + A'y + G'z = 0, A x = b, and G x = h on the rows with
    z > h - G x, z = 0 on the others; ``program`` is (Q, q, A, b, G, h).

    By one LU factor, rows scaled to size 1, with a shift of the diagonal: up in Q and down in its corner, by the square
    root of the precision in units of the largest entry of Q. The shifted system is regular for every convex program.
    The next step removes the error of the shift, and leaves out directions without curvature. Source: Friedlander and
    Orban, 2012.

    >>> program = (jnp.eye(1), -jnp.ones(1), jnp.zeros((0, 1)), jnp.zeros(0), jnp.ones((1, 1)), jnp.zeros(1))
    >>> x, y, z = newton_step(program, (jnp.array([0.1]), jnp.zeros(0), jnp.array([0.9])))
    >>> half = jnp.finfo(x.dtype).eps ** 0.5  # the digits that one step gives
    >>> bool(jnp.abs(x[0] - 0.1) < half), bool(jnp.abs(z[0] + 0.1) < half)
    (True, True)
    """
    Q, q, A, b, G, h = program
    x, y, z = at
    rows, duals = jnp.concatenate([A, G]), jnp.concatenate([y, z])
    slack = rows @ x - jnp.concatenate([b, h])
    active = jnp.concatenate([jnp.ones(y.size, bool), z + slack[y.size :] > 0])
    size = jnp.max(jnp.abs(rows), axis=1, initial=0)
    size = jnp.where(size > 0, size, 1)
    largest = jnp.max(jnp.abs(Q), initial=0)
    largest = jnp.where(largest > 0, largest, 1)
    shift = jnp.finfo(q.dtype).eps ** 0.5
    across = jnp.where(active[:, None], rows / size[:, None], 0)
    corner = jnp.diag(jnp.where(active, -shift / largest, 1))
    curved = Q + shift * largest * jnp.eye(q.size, dtype=q.dtype)
    matrix = jnp.block([[curved, (rows / size[:, None]).T], [across, corner]])
    top = Q @ x + q + rows.T @ duals
    step = jnp.linalg.solve(matrix, jnp.concatenate([top, jnp.where(active, slack / size, duals * size)]))
    change = step[q.size :] / size
    return step[: q.size], change[: y.size], change[y.size :]
