"""Soft thresholding of singular values and its derivatives, by divided differences.

With J(X) = [[0, X], [X', 0]], whose eigenvalues are the singular values, their negatives and zeros, the result is
twice the upper right block of the positive part of J(X) - t I. Its derivatives are those of `spectral`, written in the
eigenvectors (u_i, v_i) / sqrt 2 and (u_i, -v_i) / sqrt 2 (the core) and the complement of the v_i (the side), on
which the eigenvalue is -t throughout: no matrix larger than 2 m x 2 m or 2 m x n appears for an m x n matrix, m <= n.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel.kernels.spectral import ratio, signs


@jax.custom_jvp
def shrink_singular_values(matrix: jax.Array, threshold: jax.Array) -> jax.Array:
    """U diag(max(s - threshold, 0)) V' for an m x n matrix U diag(s) V' with m <= n.

    First and second derivatives are exact, also at equal and at zero singular values; third derivatives are not
    implemented and come out zero.

    >>> shrink_singular_values(jnp.diag(jnp.array([3.0, 0.5])), 1.0).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    return (left * jnp.maximum(values - threshold, 0)[None, :]) @ right


class _Direction(NamedTuple):
    """A direction of J(X) - t I in the basis above: core x core, core x side, and the multiple of I on the side."""

    core: jax.Array
    side: jax.Array
    rest: jax.Array


@shrink_singular_values.defjvp
def _shrink_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    fixed_matrix, fixed_threshold = jax.lax.stop_gradient(primals)
    left, values, right = jnp.linalg.svd(fixed_matrix, full_matrices=False)
    core = jnp.concatenate([values, -values]) - fixed_threshold
    first = _direction(left, right, *tangents)
    # zero in value; its derivative is the second derivative
    moved = _direction(left, right, primals[0] - fixed_matrix, primals[1] - fixed_threshold)
    change = _second_difference(core, -fixed_threshold, first, moved)
    slopes, side_slopes = signs(core), _side_signs(core, -fixed_threshold)
    core_change = first.core + slopes * first.core + change.core
    side_change = first.side + side_slopes * first.side + change.side
    plus, minus = jnp.split(core_change, 2)
    columns = jnp.concatenate([right, -right]) / 2
    half = (plus + minus) @ columns + sum(jnp.split(side_change, 2)) / jnp.sqrt(jnp.asarray(2, core.dtype))
    return shrink_singular_values(*primals), left @ half


def _direction(left: jax.Array, right: jax.Array, matrix: jax.Array, threshold: jax.Array) -> _Direction:
    rows = left.T @ matrix
    inner = rows @ right.T
    even, odd = 0.5 * (inner + inner.T), 0.5 * (inner - inner.T)
    core = jnp.block([[even, -odd], [odd, -even]]) - threshold * jnp.eye(2 * inner.shape[0], dtype=inner.dtype)
    side = (rows - inner @ right) / jnp.sqrt(jnp.asarray(2, inner.dtype))
    return _Direction(core, jnp.concatenate([side, side]), -threshold)


def _side_signs(core: jax.Array, side: jax.Array) -> jax.Array:
    return ratio(core + side, jnp.abs(core) + jnp.abs(side))[:, None]


def _second_difference(core: jax.Array, side: jax.Array, first: _Direction, second: _Direction) -> _Direction:
    """The second derivative of the absolute value in two directions, as in `spectral`, block by block."""
    slopes, side_slopes = signs(core), _side_signs(core, side)

    def one_way(first: _Direction, second: _Direction) -> tuple[jax.Array, jax.Array]:
        core = first.core @ second.core - (slopes * first.core) @ (slopes * second.core)
        core = core + first.side @ second.side.T - (side_slopes * first.side) @ (side_slopes * second.side).T
        side = first.core @ second.side - (slopes * first.core) @ (side_slopes * second.side)
        return core, side + first.side * second.rest * (1 + side_slopes)  # the sign on the side itself is -1

    there, back = one_way(first, second), one_way(second, first)
    size = jnp.abs(core)
    return _Direction(
        ratio(there[0] + back[0], size[:, None] + size[None, :]),
        ratio(there[1] + back[1], (size + jnp.abs(side))[:, None]),
        first.rest,
    )
