"""The active constraints in orthonormal coordinates, in which a saddle system keeps the condition of its Hessian."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax

from bilevel.kernels.rescue import rescued

WELL_SEPARATED = 1e-4  # Cholesky's factor is used if each row is so far from the span of the rows before


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
    rows = lax.stop_gradient(rows)
    lengths = jnp.linalg.norm(rows, axis=1)
    present = lengths > 0
    unit = rows / jnp.where(present, lengths, 1)[:, None]
    gram = unit @ unit.T + jnp.diag(1.0 - present.astype(rows.dtype))
    factor = jnp.linalg.cholesky(gram)
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(rows.shape[0], dtype=rows.dtype), lower=True)
    easy = jnp.min(jnp.diagonal(factor), initial=1.0) > WELL_SEPARATED  # False for NaN
    kept = present.astype(rows.dtype)
    transform, kept = _separate(easy[None], unit[None], (kept[:, None] * inverse)[None], kept[None])
    transform, kept = transform[0], kept[0]
    return Coordinates(transform / jnp.where(present, lengths, 1)[None, :], kept)


def dependent(rows: jax.Array) -> jax.Array:
    """The rows that are combinations of others, because they have a part in the left null space; zero rows do not
    count.

    >>> dependent(jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])).tolist()
    [True, False, True, False]
    """
    lengths = jnp.linalg.norm(rows, axis=1)
    present = lengths > 0
    unit = rows / jnp.where(present, lengths, 1)[:, None]
    factor = jnp.linalg.cholesky(unit @ unit.T + jnp.diag(1.0 - present.astype(rows.dtype)))
    unsure = ~(jnp.min(jnp.diagonal(factor), initial=1.0) > WELL_SEPARATED)

    def careful(unit: jax.Array, present: jax.Array) -> jax.Array:
        left, _, kept = singular_values(unit)
        return present & (1 - jnp.sum(jnp.where(kept, left, 0) ** 2, axis=1) > jnp.finfo(rows.dtype).eps ** 0.5)

    return rescued(unsure, careful, (unit, present), jnp.zeros_like(present))


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


@jax.custom_batching.custom_vmap
def _separate(easy: jax.Array, unit: jax.Array, transform: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Batched: the given transform where it is good, else the one by singular values, computed if any lane needs it."""

    def careful() -> tuple[jax.Array, jax.Array]:
        other, count = jax.vmap(_by_singular_values)(unit)
        return jnp.where(easy[:, None, None], transform, other), jnp.where(easy[:, None], kept, count)

    return lax.cond(jnp.all(easy), lambda: (transform, kept), careful)


@_separate.def_vmap
def _(axis_size: int, in_batched: list[bool], *args: jax.Array) -> tuple:
    spread = [
        arg if batched else jnp.broadcast_to(arg[None], (axis_size, *arg.shape))
        for arg, batched in zip(args, in_batched, strict=True)
    ]
    flat = [arg.reshape(axis_size * arg.shape[1], *arg.shape[2:]) for arg in spread]
    transform, kept = _separate(*flat)
    return (transform.reshape(spread[2].shape), kept.reshape(spread[3].shape)), (True, True)
