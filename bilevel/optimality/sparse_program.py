"""The KKT conditions of a quadratic program whose matrices are sparse, with their saddle system by its entries."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from bilevel.foundation.typing import PyTree
from bilevel.implicit.mapping import System
from bilevel.kernels import activity
from bilevel.kernels.activity import Reading, Units
from bilevel.kernels.matrices import Matrix, between, sparse, stacked, symmetric_part
from bilevel.linear_solve.base import Operator, Stored
from bilevel.optimality.kkt import KKT
from bilevel.optimality.primal_dual import PrimalDual


@dataclass(frozen=True, eq=False)
class SparseProgram(KKT):
    """`KKT` of min 1/2 x'Qx + q'x, A x = b, G x <= h as functions of (x, Q, q, A, b, G, h, usable).

    The system of `KKT` on the active rows, whose mask is m, in the units D of unknowns and rows,

        K = D [[Q, A', (m G)'], [A, 0, 0], [m G, 0, -(I - m)]] D,

    has its entries stored, so that it is factored instead of being solved by products.
    """

    def system(self, params: PrimalDual, *args: PyTree, **kwargs: PyTree) -> System:
        Q, _, A, _, G, h, _ = args
        x, y, z = params
        n, p = x.size, y.size
        reading, off = jax.lax.stop_gradient(held(args, params))
        rows = stacked(A, G)
        slack = h - G @ x
        divisor = jnp.where(reading.active, z, jnp.where(slack == 0, 1, -slack))
        matrix = saddle_of(Q, rows, off, reading.units)
        scale = jnp.concatenate(reading.units)

        def split(flat: jax.Array) -> PrimalDual:
            return PrimalDual(flat[:n], flat[n : n + p], flat[n + p :])

        def restrict(rhs: PrimalDual) -> jax.Array:
            known = rhs.inequality_dual / divisor
            inactive = off[p:] * known
            bottom = jnp.concatenate([rhs.equality_dual, (1 - off[p:]) * known])
            given = jnp.concatenate([rhs.primal - G.T @ inactive, bottom])
            return scale * given - jnp.concatenate([jnp.zeros(n + p, x.dtype), inactive / scale[n + p :]])

        operator = Operator(
            lambda flat: matrix @ flat, symmetric=True, definite=False, owner=str(self),
            stored=Stored(jax.lax.stop_gradient(matrix), n),
        )  # fmt: skip
        return System(operator, restrict, lambda _, found: split(scale * found))


def held(args: tuple, params: PrimalDual) -> tuple[Reading, jax.Array]:
    """The reading of the active rows, and a mask of the rows that do not hold the point."""
    Q, q, A, b, G, h, _ = args
    reading = activity.read_program((symmetric_part(Q), q, A, b, G, h), tuple(params))
    return reading, jnp.concatenate([jnp.zeros_like(params.equality_dual), (~reading.active).astype(q.dtype)])


def saddle_of(Q: Matrix, rows: Matrix, off: jax.Array, units: Units) -> BCOO:
    """K in the ``units``; a row that is ``off`` has -1 on the diagonal."""
    columns, scales = units
    n, count = columns.size, scales.size
    curvature = sparse(between(columns, symmetric_part(Q), columns))
    across = sparse(between((1 - off) * scales, rows, columns))
    down, right = across.indices.T
    corner = jnp.arange(n, n + count, dtype=down.dtype)
    # The places that pad a matrix lie outside of it, and must not land in the next block.
    down = jnp.where(down < count, n + down, n + count)
    right = jnp.where(right < n, right, n + count)
    padded = jnp.where(jnp.any(curvature.indices >= n, axis=1)[:, None], n + count, curvature.indices)
    first = jnp.concatenate([padded[:, 0], down, right, corner])
    second = jnp.concatenate([padded[:, 1], right, down, corner])
    data = jnp.concatenate([curvature.data, across.data, across.data, -off])
    return BCOO((data, jnp.stack([first, second], axis=1)), shape=(n + count, n + count))
