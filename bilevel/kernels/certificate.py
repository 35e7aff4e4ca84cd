"""Proofs that a program over cones has no solution, judged in units that no scaling of the program changes.

    min 1/2 x'Px + q'x   s.t.   A x + s = b, s in K,       y in K* the multipliers

A proof is an inequality between sums, and rounding leaves the sums uncertain. So it can show only that there is no
solution within a certain distance. The distance is measured in units of the program: rows and columns of A brought to
size 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def closeness(dtype: jnp.dtype) -> float:
    """The relative error that a proof may have, 2e-10 in float64 and 5e-5 in float32. A solution that such a proof
    misses lies farther away than the inverse of it."""
    return float(jnp.finfo(dtype).eps) ** 0.625


def no_point(b: jax.Array, y: jax.Array, left: jax.Array, close: float | None = None) -> jax.Array:
    """Whether y in K* proves that A x + s = b has no solution with s in K: A'y = 0 and b'y < 0 (Farkas).

    ``left`` is A'y, followed by what had to be taken from y to bring it into K*. In the units above. As b'y >= x'A'y at
    every feasible x, no x with ||x||_1 < |b'y| / max |left| is feasible. This bound has to be far more than the mean
    size of b, on the rows that y uses and on all rows, because the other rows say how large x may be where y uses rows
    with b = 0. So neither the size of b nor of y matters.

    >>> b, close = jnp.array([1.0, -2.0]), 1e-6  # x <= 1, x >= 2
    >>> bool(no_point(b, jnp.ones(2), jnp.zeros(1), close)), bool(no_point(b, jnp.ones(2), jnp.array([0.1]), close))
    (True, False)
    """
    close = closeness(b.dtype) if close is None else close
    bound, terms, total = -(b @ y), jnp.abs(b) @ jnp.abs(y), jnp.sum(jnp.abs(y))
    return _above_rounding(bound, terms) & (_largest(left) * (terms + _mean(b) * total) <= close * bound * total)


def no_minimum(
    q: jax.Array, x: jax.Array, curved: jax.Array, left: jax.Array, diagonal: jax.Array, close: float | None = None
) -> jax.Array:
    """Whether the loss falls along x without end: P x = 0, -A x in K and q'x < 0.

    ``curved`` is P x, ``diagonal`` the diagonal of P, and ``left`` the distance of -A x from K, in the units above. At
    a solution (x*, y*) q'x >= -x*'P x - y*'left, so that x* or y* is far away: x* beside P x / diagonal, y* beside the
    mean size of q, on the coordinates that x uses and on all of them.

    >>> q, close = jnp.array([1.0, -1.0]), 1e-6
    >>> bool(no_minimum(q, jnp.array([0.0, 1.0]), jnp.zeros(2), jnp.zeros(1), jnp.zeros(2), close))
    True
    """
    close = closeness(q.dtype) if close is None else close
    falls, terms, total = -(q @ x), jnp.abs(q) @ jnp.abs(x), jnp.sum(jnp.abs(x))
    bends = jnp.where(diagonal > 0, jnp.abs(curved) / jnp.where(diagonal > 0, diagonal, 1), 0)
    apart = jnp.maximum(_largest(bends), _largest(left))
    return _above_rounding(falls, terms) & (apart * (terms + _mean(q) * total) <= close * falls * total)


def _above_rounding(value: jax.Array, terms: jax.Array) -> jax.Array:
    """Whether a sum of ``terms`` that cancel is positive beyond doubt."""
    return (value > 0) & (value >= 1e3 * float(jnp.finfo(value.dtype).eps) * terms)


def _mean(v: jax.Array) -> jax.Array:
    return jnp.sum(jnp.abs(v)) / max(v.size, 1)


def _largest(v: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(v), initial=0)
