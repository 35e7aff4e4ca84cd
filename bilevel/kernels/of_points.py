"""Positive definite kernels of points: the Gaussian one, and those of wide networks in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

NEAR = 8  # in roundings: cosines closer to 1 than this belong to points that the precision cannot tell apart


def linear(left: jax.Array, right: jax.Array, bias: float = 0.1) -> jax.Array:
    """x'z / d + bias^2 of all pairs of rows of ``left`` (n, d) and ``right`` (m, d)."""
    return left @ right.T / left.shape[1] + bias**2


def gaussian(left: jax.Array, right: jax.Array, scale: float = 1.0) -> jax.Array:
    """exp(-|x - z|^2 / (2 d scale^2)) of all pairs of rows of ``left`` (n, d) and ``right`` (m, d)."""
    features = left.shape[1] * scale**2
    squares = [0.5 * jnp.sum(rows**2, axis=1) for rows in (left, right)]
    # Rounding may make the squared distance of equal rows negative, and the kernel larger than 1.
    return jnp.exp(jnp.minimum(left @ right.T - squares[0][:, None] - squares[1][None, :], 0.0) / features)


def neural_tangent(
    left: jax.Array, right: jax.Array, depth: int = 1, bias: float = 0.1, same: bool = False
) -> jax.Array:
    """The neural tangent kernel of a fully connected ReLU network with ``depth`` hidden layers of infinite width.

        u_1 = W_1 x / sqrt(d) + bias b_1,   u_{l+1} = sqrt(2 / n_l) W_{l+1} relu(u_l) + bias b_{l+1},   f = u_{depth+1}

    with standard normal W and b gives, of all pairs of rows of ``left`` (n, d) and ``right`` (m, d), with S(x, x) = s,
    S(z, z) = t and cos(a) = S / sqrt(s t) in each layer,

        S <- sqrt(s t) (sin(a) + (pi - a) cos(a)) / pi + bias^2,      T <- S + T (pi - a) / pi,

    from S = T = x'z / d + bias^2. ``same`` says that ``right`` is ``left``: then the angles on the diagonal are 0, not
    rounded. The kernel has a kink where two points coincide; its derivative there is the mean over directions.

    Source: Jacot et al., 2018; Cho and Saul, 2009.

    >>> import jax.numpy as jnp
    >>> points = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> jnp.round(100 * neural_tangent(points, points, bias=0.0, same=True)).astype(int).tolist()
    [[100, 16], [16, 100]]
    """
    covariance = linear(left, right, bias)
    sizes = tuple(jnp.mean(rows**2, axis=1) + bias**2 for rows in (left, right))
    tangent = covariance
    for _ in range(depth):
        product = sizes[0][:, None] * sizes[1][None, :]
        positive = product > 0  # a point at 0 without a bias has the cosine 0 / 0 and a root with slope inf
        size = jnp.sqrt(jnp.where(positive, product, 1.0))
        cosine = jnp.where(positive, covariance / size, 0.0)
        cosine = jnp.where(jnp.eye(len(left), dtype=bool), 1.0, cosine) if same else cosine
        covariance = jnp.where(positive, size, 0.0) * arc_cosine(cosine) + bias**2
        tangent = covariance + tangent * arc_step(cosine)
        sizes = sizes[0] + bias**2, sizes[1] + bias**2
    return tangent


@jax.custom_jvp
def arc_step(cosine: jax.Array) -> jax.Array:
    """(pi - arccos c) / pi = 2 E[1(u > 0) 1(v > 0)] of standard normal u and v with correlation c.

    Its slope 1 / (pi sqrt(1 - c^2)) is infinite at 1, where 0 stands for it: the mean over both sides of the kink.
    """
    return 1 - jnp.arccos(jnp.clip(cosine, -1.0, 1.0)) / np.pi


@arc_step.defjvp
def _arc_step_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (cosine,), (moved,) = primals, tangents
    apart = 1 - jnp.abs(cosine) > NEAR * jnp.finfo(cosine.dtype).eps
    inside = jnp.where(apart, cosine, 0.0)
    return arc_step(cosine), jnp.where(apart, moved / (np.pi * jnp.sqrt(1 - inside**2)), 0.0)


@jax.custom_jvp
def arc_cosine(cosine: jax.Array) -> jax.Array:
    """(sin(a) + (pi - a) cos(a)) / pi = 2 E[relu(u) relu(v)] with c = cos(a); its slope is `arc_step`, also at 1, where
    the rules for sine and arccos give infinity less infinity."""
    inside = jnp.clip(cosine, -1.0, 1.0)
    return (jnp.sqrt((1 - inside) * (1 + inside)) + (np.pi - jnp.arccos(inside)) * inside) / np.pi


@arc_cosine.defjvp
def _arc_cosine_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (cosine,), (moved,) = primals, tangents
    return arc_cosine(cosine), arc_step(cosine) * moved
