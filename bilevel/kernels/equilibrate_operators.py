"""The scaling of a program whose matrices are dense, sparse, or known by their products only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.foundation.signs import signs
from bilevel.kernels.matrices import Matrix, squared
from bilevel.kernels.splitting import Quadratic, Scales, Units

SWEEPS = 8  # each round takes the square root of the remaining ratios of scale
PROBES = 8  # vectors of random signs: so many measure a squared length to about a half


class Squares(NamedTuple):
    """The squared lengths of the columns of [P; A] and of the rows of A in a scaled program."""

    hessian: Callable[[jax.Array], jax.Array]  # d -> P^2 d, entries squared
    rows: Callable[[jax.Array], jax.Array]  # d -> A^2 d
    transposed: Callable[[jax.Array], jax.Array]  # e -> (A^2)'e


class Groups(NamedTuple):
    """Groups of rows that share a scale because they form one cone."""

    owner: np.ndarray  # the group of each row
    number: int

    def shared(self, sizes: jax.Array) -> jax.Array:
        if self.number == self.owner.size:
            return sizes
        mean = jax.ops.segment_sum(sizes, self.owner, self.number, indices_are_sorted=True)
        count = np.maximum(np.bincount(self.owner, minlength=self.number), 1)
        return (mean / count)[self.owner]


def single(rows: int) -> Groups:
    """Each row by itself."""
    return Groups(np.arange(rows), rows)


def squares_of(P: Matrix, A: Matrix) -> Squares:
    """The lengths of given matrices, exact."""
    P2, A2 = squared(P), squared(A)
    return Squares(lambda d: P2 @ d, lambda d: A2 @ d, lambda e: A2.T @ e)


def squares_by_products(program: Quadratic) -> Squares:
    """Estimated by products with random signs: E (M diag(sqrt d) sign)^2 = M^2 d, entry by entry."""

    def estimate(product: Callable[[jax.Array], jax.Array], weights: jax.Array) -> jax.Array:
        probes = signs((PROBES, weights.size), weights.dtype)
        return jnp.mean(jax.vmap(lambda sign: product(jnp.sqrt(weights) * sign))(probes) ** 2, axis=0)

    return Squares(
        lambda d: estimate(program.hessian, d),
        lambda d: estimate(program.rows, d),
        lambda e: estimate(program.transposed, e),
    )


def equilibrium(q: jax.Array, squares: Squares, groups: Groups) -> Scales:
    """Scales under which rows and columns are of about one length.

    Source: Ruiz, 2001; Diamond and Boyd, Stochastic matrix-free equilibration, 2017.
    """

    def sweep(_: int, scales: Scales) -> Scales:
        columns, rows, cost = scales
        curved = cost**2 * columns**2 * squares.hessian(columns**2)
        down = curved + columns**2 * squares.transposed(rows**2)
        across = groups.shared(rows**2 * squares.rows(columns**2))
        columns, rows = columns * _fourth_root(down), rows * _fourth_root(across)
        curvature = jnp.sqrt(jnp.mean(columns**2 * squares.hessian(columns**2)))
        size = jnp.maximum(curvature, jnp.max(jnp.abs(columns * q), initial=0))
        return Scales(columns, rows, jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 1))

    first = Scales(jnp.ones_like(q), jnp.ones(groups.owner.size, q.dtype), jnp.ones((), q.dtype))
    return jax.lax.stop_gradient(jax.lax.fori_loop(0, SWEEPS, sweep, first))  # a loop is compiled once


def units(q: jax.Array, squares: Squares, groups: Groups) -> Units:
    """The units in which a proof that there is no solution is judged, see `certificate`."""
    columns, rows, _ = equilibrium(q, squares._replace(hessian=jnp.zeros_like), groups)
    return Units(columns, rows, columns * jnp.sqrt(squares.hessian(columns**2)))


def _fourth_root(square: jax.Array) -> jax.Array:
    """1 / sqrt(length), from the squared length."""
    return jnp.where(square > 0, jnp.where(square > 0, square, 1) ** -0.25, 1)


def normal_matrix(P: jax.Array, A: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """weights -> P + A' diag(weights) A, of dense matrices."""
    return lambda weights: P + A.T @ (weights[:, None] * A)
