"""The active constraints in orthonormal coordinates, in which a saddle system keeps the condition of its Hessian."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.foundation.rescue import rescued

WELL_SEPARATED = 1e-4  # Cholesky's factor is used if each row of length 1 is so far from the span of the rows before it


class Coordinates(NamedTuple):
    """A change of the multipliers that makes the active rows orthonormal."""

    transform: jax.Array  # T, (rows, rows): the nonzero rows of T R are orthonormal
    kept: jax.Array  # (rows,), 1 for directions that T spans, 0 for inactive and for redundant rows


def orthonormal(rows: jax.Array) -> Coordinates:
    """T with T R (T R)' = diag(kept), for rows R of shape (rows, unknowns), some of them zero or dependent.

    T is a constant: it carries no derivative, and any invertible T would be right. Where the rows are well separated it
    is the inverse of the Cholesky factor of R R', else the inverse singular values of R on those that exceed rounding
    (so nearly dependent rows keep full relative accuracy, and dependent ones lead to the multipliers of least norm).
    Under vmap the singular values are computed only if some lane needs them.
    """
    unit, lengths, factor, close = _separated(lax.stop_gradient(rows))
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(rows.shape[0], dtype=rows.dtype), lower=True)
    kept = (lengths > 0).astype(rows.dtype)
    transform, kept = rescued(close, _by_singular_values, (unit,), (kept[:, None] * inverse, kept))
    return Coordinates(transform / jnp.where(lengths > 0, lengths, 1)[None, :], kept)


def dependent(rows: jax.Array) -> jax.Array:
    """The rows that are combinations of others, because they have a part in the left null space; zero rows do not
    count.

    >>> dependent(jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])).tolist()
    [True, False, True, False]
    """
    unit, lengths, _, close = _separated(rows)
    present = lengths > 0

    def careful(unit: jax.Array, present: jax.Array) -> jax.Array:
        left, _, kept = singular_values(unit)
        return present & (1 - jnp.sum(jnp.where(kept, left, 0) ** 2, axis=1) > jnp.finfo(rows.dtype).eps ** 0.5)

    return rescued(close, careful, (unit, present), jnp.zeros_like(present))


def _separated(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rows of length 1 and their lengths, Cholesky's factor of their products, and whether the factor is unusable: a
    row is too near to the span of the rows before it, or the factor is NaN."""
    lengths = jnp.linalg.norm(rows, axis=1)
    present = lengths > 0
    unit = rows / jnp.where(present, lengths, 1)[:, None]
    factor = jnp.linalg.cholesky(unit @ unit.T + jnp.diag(1.0 - present.astype(rows.dtype)))
    return unit, lengths, factor, ~(jnp.min(jnp.diagonal(factor), initial=1.0) > WELL_SEPARATED)


def singular_values(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Left singular vectors and singular values of the rows, and which of them exceed rounding."""
    left, values, _ = jnp.linalg.svd(rows, full_matrices=False)
    missing = rows.shape[0] - values.size
    left = jnp.pad(left, ((0, 0), (0, missing)))
    values = jnp.pad(values, (0, missing))
    roundoff = 10 * max(rows.shape) ** 0.5 * jnp.finfo(rows.dtype).eps
    return left, values, values > roundoff * jnp.max(values, initial=0)


def _by_singular_values(unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, values, kept = singular_values(unit)
    weights = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    weights = jnp.where(jnp.all(jnp.isfinite(unit)), weights, jnp.nan)
    return weights[:, None] * left.T, kept.astype(unit.dtype)
