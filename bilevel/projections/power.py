"""The power cone, by the root of one scalar function."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, norm
from bilevel.kernels.scalar_root import bracketed_root


@compiles_once
def power_cone(point: ArrayLike, alpha: float) -> jax.Array:
    """The nearest point of {(x, y, z) : x, y >= 0, x^alpha y^(1 - alpha) >= |z|}; the point is (..., 3), 0 < alpha < 1.

    A point (x, y, z) that is not in the cone, nor in its polar, with z != 0 is projected to (x(r), y(r), r sign z),

        x(r) = (x + sqrt(x^2 + 4 alpha r (|z| - r))) / 2,  y(r) alike with 1 - alpha,  x(r)^alpha y(r)^(1 - alpha) = r.

    Source: Hien, Differential properties of Euclidean projection onto power cone, 2015.

    >>> power_cone(jnp.array([-1.0, 2.0, 0.0]), 0.5).tolist()
    [0.0, 2.0, 0.0]
    """
    return jnp.vectorize(_project, excluded=(1,), signature="(k)->(k)")(as_point(point), float(alpha))


def power_cone_distance(point: ArrayLike, alpha: float) -> jax.Array:
    """About how far each vector is from where the derivative of `power_cone` jumps: (...,), to first order in the
    distance inside of the cone and of its polar, where the boundary is curved."""
    return jnp.vectorize(_distance, excluded=(1,), signature="(k)->()")(as_point(point), float(alpha))


class _Regions(NamedTuple):
    inside: jax.Array
    polar: jax.Array
    flat: jax.Array  # z = 0 outside of both: the nearest point has a zero among x and y


def _regions(point: jax.Array, alpha: float) -> _Regions:
    x, y, z = point
    inside = (x >= 0) & (y >= 0) & (_mean(x, y, alpha) >= jnp.abs(z))
    polar = (x <= 0) & (y <= 0) & (_mean(-x / alpha, -y / (1 - alpha), alpha) >= jnp.abs(z)) & ~inside
    return _Regions(inside, polar, (z == 0) & ~inside & ~polar)


def _mean(x: jax.Array, y: jax.Array, alpha: float | jax.Array) -> jax.Array:
    """x^alpha y^(1 - alpha), zero where one of them is not positive."""
    positive = (x > 0) & (y > 0)
    x, y = jnp.where(positive, x, 1), jnp.where(positive, y, 1)
    return jnp.where(positive, x**alpha * y ** (1 - alpha), 0)


def _distance(point: jax.Array, alpha: float) -> jax.Array:
    inside, polar, _ = _regions(point, alpha)
    projected = _project(point, alpha)
    outside = jnp.minimum(norm(point - projected), norm(projected))
    within = jnp.where(inside, _depth(point, alpha, 1.0, 1.0), _depth(point, alpha, -1 / alpha, -1 / (1 - alpha)))
    return jnp.where(inside | polar, within, outside)


def _depth(point: jax.Array, alpha: float, of_x: float, of_y: float) -> jax.Array:
    """How deep (x, y, z) lies where (of_x x, of_y y, z) is in the cone."""
    x, y, z = of_x * point[0], of_y * point[1], point[2]
    positive = (x > 0) & (y > 0)
    mean = _mean(x, y, alpha)
    slopes = of_x * alpha * mean / jnp.where(positive, x, 1), of_y * (1 - alpha) * mean / jnp.where(positive, y, 1)
    return jnp.where(positive, jnp.maximum(mean - jnp.abs(z), 0) / norm(jnp.stack([*slopes, jnp.ones_like(z)])), 0)


def _coordinate(share: float | jax.Array, at: jax.Array, r: jax.Array, gap: jax.Array) -> jax.Array:
    """x(r) with gap = |z| - r; for a negative x in the form without cancellation."""
    product = 4 * share * r * gap
    root = jnp.sqrt(at * at + product)
    size = jnp.abs(at) + root
    return jnp.where(at > 0, 0.5 * size, 0.5 * product / jnp.where(size > 0, size, 1))


def _end(t: jax.Array, side: jax.Array, x: jax.Array, y: jax.Array, height: jax.Array, alpha: jax.Array) -> jax.Array:
    """(x(r), y(r), r) at r = t, or at gap = t on ``side`` -1, where gap = height - r. The smaller one of r and gap is
    the unknown t, because computed as a difference it would leave few digits to x(r) and y(r)."""
    rest = height - t
    r, gap = jnp.where(side > 0, t, rest), jnp.where(side > 0, rest, t)
    return jnp.stack([_coordinate(alpha, x, r, gap), _coordinate(1 - alpha, y, r, gap), r])


def _excess(t: jax.Array, side: jax.Array, *point: jax.Array) -> jax.Array:
    """r less the mean of x(r) and y(r), with the sign with which it increases in t."""
    x, y, r = _end(t, side, *point)
    return side * (r - _mean(x, y, point[-1]))


def _boundary_point(point: jax.Array, alpha: float) -> jax.Array:
    """The nearest point of the curved boundary."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(point)))
    x, y, z = jnp.ldexp(point, -exponent)  # a power of two: scaling back is exact
    stated = (x, y, jnp.abs(z), jnp.asarray(alpha, z.dtype))
    middle, one = 0.5 * jnp.abs(z), jnp.ones_like(z)
    side = jnp.where(_excess(middle, one, *stated) < 0, -one, one)
    t = bracketed_root(_excess, jnp.zeros_like(z), middle, side, *stated)
    x, y, r = _end(t, side, *stated)
    return jnp.ldexp(jnp.stack([x, y, jnp.sign(z) * r]), exponent)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _project(point: jax.Array, alpha: float) -> jax.Array:
    inside, polar, flat = _regions(point, alpha)
    face = jnp.maximum(point, 0)
    outside = jnp.where(polar, 0, jnp.where(flat, face, _boundary_point(point, alpha)))
    return jnp.where(jnp.any(jnp.isnan(point)), jnp.nan, jnp.where(inside, point, outside))


@_project.defjvp
def _project_jvp(alpha: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (point,), (direction,) = primals, tangents
    projected = _project(point, alpha)
    inside, polar, flat = _regions(point, alpha)
    curved = ~(inside | polar | flat)
    along = _tangential(jnp.where(curved, point, 1), jnp.where(curved, projected, 1), direction, alpha)
    face = direction * _on_face(point, alpha)
    return projected, jnp.where(inside, direction, jnp.where(polar, 0, jnp.where(flat, face, along)))


def _on_face(point: jax.Array, alpha: float) -> jax.Array:
    """The diagonal of the derivative where z = 0 and one of x and y is negative. There the boundary is a multiple of
    |z|^(1 / share) with ``share`` the exponent of the negative one: flat, a parabola or a corner."""
    x, y, _ = point
    share = jnp.where(x < 0, alpha, 1 - alpha)
    parabola = jnp.maximum(x, y) / jnp.where(x == y, 1, jnp.maximum(x, y) - 2 * jnp.minimum(x, y))
    across = jnp.where(share < 0.5, 1, jnp.where(share > 0.5, 0, parabola))
    return jnp.stack([(x > 0).astype(x.dtype), (y > 0).astype(x.dtype), across.astype(x.dtype)])


def _tangential(point: jax.Array, projected: jax.Array, direction: jax.Array, alpha: float) -> jax.Array:
    """D = u u' + w w' / (1 + t k), u along the ray of the projected point, w the other tangent, t the distance of the
    point and k the curvature along w; along the ray there is none.

    The Hessian of x^a y^(1 - a) is -a (1 - a) x^a y^(1 - a) q q' with q = (1 / x, -1 / y). Where x, y or z is zero to
    within rounding, the point is at an end of the boundary, and the nonzero ones move freely.
    """
    x, y, z = projected
    curved = (x > 0) & (y > 0) & (z != 0)
    x, y, z = jnp.where(curved, x, 1), jnp.where(curved, y, 1), jnp.where(curved, z, 1)
    # Both multiplied by x y / |z|, because the slopes alpha |z| / x overflow near the faces.
    normal = jnp.stack([-alpha * y, -(1 - alpha) * x, x ** (1 - alpha) * y**alpha * jnp.sign(z)])
    size = norm(normal)
    ray = jnp.stack([x, y, z])
    ray = ray / norm(ray)
    other = jnp.cross(normal / size, ray)
    turn = other[0] * y - other[1] * x
    bent = jnp.minimum(alpha * (1 - alpha) / size * (turn / x) * (turn / y), jnp.finfo(x.dtype).max)
    share = 1 / (1 + norm(point - projected) * bent)
    along = (ray @ direction) * ray + share * (other @ direction) * other
    return jnp.where(curved, along, jnp.where(projected != 0, direction, 0))
