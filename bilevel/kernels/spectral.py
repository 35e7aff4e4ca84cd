"""The positive part of a symmetric matrix and its derivatives, by divided differences of its eigenvalues.

Differentiating the eigenvectors divides by the gaps between eigenvalues, although the function is smooth where they
meet. With X = U diag(a) U' and f = max(., 0) the derivatives are (Daleckii and Krein, 1965)

    D[H] = U (f[a_i, a_j] * H~) U',      D2[H, K] = U (sum_k f[a_i, a_k, a_j] (H~_ik K~_kj + K~_ik H~_kj)) U'

with H~ = U' H U. As f = (id + |.|) / 2 and |x| |x| = x x, the product rule for divided differences gives

    |a, b| = (a + b) / (|a| + |b|),      |a, b, c| = (1 - |a, b| |b, c|) / (|a| + |c|),

so that D2 takes two matrix products and no array of three indices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_jvp
def positive_part(matrix: jax.Array) -> jax.Array:
    """sum max(a_i, 0) u_i u_i' for a symmetric n x n matrix with eigenvalues a_i and eigenvectors u_i.

    First and second derivatives are exact, also at equal eigenvalues; third derivatives are not implemented and come
    out zero.

    >>> positive_part(jnp.diag(jnp.array([-1.0, 2.0]))).tolist()
    [[0.0, 0.0], [0.0, 2.0]]
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.maximum(values, 0)[None, :]) @ vectors.T


@positive_part.defjvp
def _positive_part_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (matrix,), (direction,) = primals, tangents
    fixed = jax.lax.stop_gradient(matrix)
    values, vectors = jnp.linalg.eigh(fixed)
    first = vectors.T @ direction @ vectors
    # zero in value; its derivative is D2
    moved = vectors.T @ (matrix - fixed) @ vectors
    change = 0.5 * (first + signs(values) * first) + 0.5 * second_difference(values, first, moved)
    return positive_part(matrix), vectors @ change @ vectors.T


def signs(values: jax.Array) -> jax.Array:
    """The divided differences |a_i, a_j|, zero where both are zero."""
    sizes = jnp.abs(values)
    return ratio(values[:, None] + values[None, :], sizes[:, None] + sizes[None, :])


def second_difference(values: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """The second derivative of the absolute value of diag(values) in two symmetric directions."""
    slopes, sizes = signs(values), jnp.abs(values)
    product = first @ second - (slopes * first) @ (slopes * second)
    return ratio(product + product.T, sizes[:, None] + sizes[None, :])


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator, zero where the denominator is zero."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)
