"""Strictly convex quadratic programs by exchanges of the active set: exact, at the cost of a few factorisations of one
size."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

PATIENCE = 3  # exchanges of whole blocks without progress, before single rows are exchanged


class Pivoted(NamedTuple):
    """The multipliers, and whether they are optimal; otherwise they have no meaning."""

    y: jax.Array
    solved: jax.Array
    steps: jax.Array
    active: jax.Array  # the rows whose multiplier may differ from zero
    scale: jax.Array  # diag(scale) M diag(scale) has ones on its diagonal
    factor: jax.Array  # of that matrix on the active rows, by Cholesky, with ones on the diagonal for the others


class _Loop(NamedTuple):
    active: jax.Array
    factor: jax.Array
    y: jax.Array
    wrong: jax.Array  # the number of rows on the wrong side
    fewest: jax.Array  # the least number so far
    patience: jax.Array
    steps: jax.Array


def block_pivoting(matrix: jax.Array, offset: jax.Array, free: jax.Array, max_steps: int) -> Pivoted:
    """min 1/2 y'My + d'y subject to y_i >= 0 where not ``free``, for a positive definite M.

    On a guess of the active rows y solves M_AA y_A = -d_A; all rows with y_i < 0 or a negative slack (M y + d)_i change
    sides at once, and one at a time where the number of such rows has not fallen for some steps. Ends in finitely many
    steps, mostly about six at any size, with y exact to rounding on the optimal face. One Cholesky factor a step. A
    matrix that is not positive definite, or too many steps, ends with ``solved`` false.
    Source: Judice and Pires, 1994; Portugal, Judice and Vicente, 1994.

    >>> found = block_pivoting(jnp.eye(2), jnp.array([-1.0, 1.0]), jnp.zeros(2, bool), 10)
    >>> found.y.tolist(), bool(found.solved)
    ([1.0, 0.0], True)
    """
    diagonal = jnp.diagonal(matrix)
    empty = diagonal == 0  # the multiplier of a zero row stays zero if that is optimal
    scale = 1 / jnp.sqrt(jnp.where(empty, 1, diagonal))
    scaled, d = scale[:, None] * matrix * scale[None, :] + jnp.diag(empty.astype(matrix.dtype)), scale * offset
    identity = jnp.eye(d.size, dtype=d.dtype)
    rounding = 10 * d.size * jnp.finfo(d.dtype).eps

    def attempt(active: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        pairs = active[:, None] & active[None, :]
        factor = jnp.linalg.cholesky(jnp.where(pairs, scaled, identity), symmetrize_input=False)
        y = jax.scipy.linalg.cho_solve((factor, True), jnp.where(active, -d, 0))
        slack = scaled @ y + d
        floor = -rounding * (1 + jnp.max(jnp.abs(y), initial=0))
        return factor, y, jnp.where(active, ~free & (y < floor), slack < floor)

    def proceed(loop: _Loop) -> jax.Array:
        return jnp.any(loop.wrong) & jnp.all(jnp.isfinite(loop.y)) & (loop.steps < max_steps)

    def exchange(loop: _Loop) -> _Loop:
        count = jnp.sum(loop.wrong)
        better = count < loop.fewest
        patience = jnp.where(better, PATIENCE, loop.patience - 1)
        last = jnp.cumsum(loop.wrong) == count
        single = loop.wrong & last
        active = loop.active ^ jnp.where(patience > 0, loop.wrong, single)
        factor, y, wrong = attempt(active)
        return _Loop(active, factor, y, wrong, jnp.minimum(count, loop.fewest), patience, loop.steps + 1)

    active = free | (d < 0)
    factor, y, wrong = attempt(active)
    first = _Loop(active, factor, y, wrong, jnp.asarray(d.size + 1), jnp.asarray(PATIENCE), jnp.int32(1))
    last = jax.lax.while_loop(proceed, exchange, first)
    y = scale * last.y
    solved = ~jnp.any(last.wrong) & jnp.all(jnp.isfinite(y))
    return Pivoted(y, solved, last.steps, last.active, scale, last.factor)
