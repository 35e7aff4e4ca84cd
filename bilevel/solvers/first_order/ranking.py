"""Which rows of params count, and into which of a few sizes they are gathered."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from bilevel.foundation import trees

SIZES = (64, 128, 256, 512, 1024, 2048)  # sizes of the arrays that sparse supports are gathered into
RATIO = 4  # the ratio of one size to the next; each size is compiled, and finer ones save little
COSTLY, BETWEEN = 512, 0.625  # from this largest size on there is one more size, for supports of half as many rows
ON_HOST = 8192  # a call to the host costs about the same for up to so many rows
LEAST = 128  # smaller sizes cost no more than the products with the design
NEARBY = 1e-2  # the step of the prox that ranks rows, relative to the sizes of params and gradient


def sizes_for(samples: int, rows: int) -> list[int]:
    """The sizes for a support in general position, which has no more rows than there are samples. None is above half of
    the ``rows``, because larger ones save nothing."""
    fitting = [size for size in SIZES if 2 * size <= rows]
    largest = next((size for size in fitting if size >= samples), max(fitting, default=0))
    smaller = [size for size in fitting if LEAST <= size < largest and math.log(largest / size, RATIO).is_integer()]
    if largest >= COSTLY:
        smaller = [*smaller[-1:], int(BETWEEN * largest)]
    return [*smaller, largest] if fitting else []


def sizes_on_host(rows: int) -> list[int]:
    """The sizes of vectors for supports of any number of rows of a `bl.HostMatrix`, whose columns are not gathered."""
    return [ON_HOST] if 2 * ON_HOST <= rows else []


def first_with_room(sizes: list[int], number: jax.Array, room: int | jax.Array, last: int) -> jax.Array:
    """The index of the first of ``sizes`` with room for ``number`` rows and ``room`` more; the largest needs room for
    ``last`` more only. ``len(sizes)`` where none is large enough."""
    if not sizes:
        return jnp.int32(0)
    limits = jnp.array(sizes, jnp.int32)
    holds = (limits >= number + room).at[-1].set(limits[-1] >= number + last)
    return jnp.where(jnp.any(holds), jnp.argmax(holds), len(sizes)).astype(jnp.int32)


def foremost(priority: jax.Array, number: int) -> jax.Array:
    """The indices of the ``number`` rows of highest priority. Ranked in float32, because on a CPU XLA sorts the whole
    array for a float64 ranking: for 100,000 rows that takes 40 ms instead of 0.4 ms."""
    largest = jnp.max(jnp.where(jnp.isfinite(priority), jnp.abs(priority), 0), initial=0)
    scaled = priority / jnp.where(largest > 0, largest, 1)
    return jax.lax.top_k(scaled.astype(jnp.float32), number)[1]


def short_step(params: jax.Array, gradient: jax.Array) -> jax.Array:
    """A step size for the prox that ranks rows: so short that a solution known to two digits shows its support."""
    size, slope = trees.norm(params), trees.norm(gradient)
    known = (size > 0) & (slope > 0)
    return jnp.where(known, NEARBY * size / jnp.where(known, slope, 1), 1)


def any_in_row(mask: jax.Array) -> jax.Array:
    """Whether any entry of each row is set."""
    return jnp.any(mask.reshape(mask.shape[0], -1), axis=-1)
