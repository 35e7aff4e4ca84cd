"""The exponential cone, by the root of one increasing function."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bilevel.foundation.eager import compiles_once
from bilevel.kernels.arrays import as_point, norm
from bilevel.kernels.scalar_root import bracketed_root


@compiles_once
def exponential_cone(point: ArrayLike) -> jax.Array:
    """The nearest point of the closure of {(x, y, z) : y > 0, y exp(x / y) <= z}; the point is (..., 3).

    A point v that is not in the cone, nor in its polar, nor has x, y <= 0, splits into a point of the boundary and a
    normal, v = a (r, 1, e^r) - b (-1, r - 1, e^-r) with a, b > 0. The first two rows give a(r) and b(r), the third is
    an equation for r alone. Reference: Friberg, Projection onto the exponential cone: a univariate root-finding
    problem, 2023.

    >>> exponential_cone(jnp.array([-1.0, -1.0, 2.0])).tolist()
    [-1.0, 0.0, 2.0]
    """
    return jnp.vectorize(_project, signature="(k)->(k)")(as_point(point))


def exponential_cone_distance(point: ArrayLike) -> jax.Array:
    """About how far each vector is from where the derivative of `exponential_cone` jumps: (...,), to first order in the
    distance inside of the cone and of its polar, where the boundary is curved."""
    return jnp.vectorize(_distance, signature="(k)->()")(as_point(point))


def _distance(point: jax.Array) -> jax.Array:
    x, y, z = point
    inside, polar, flat = _regions(point)
    projected = _project(point)
    to_face = norm(jnp.maximum(point[:2], 0))
    outside = jnp.minimum(jnp.minimum(norm(point - projected), norm(projected)), to_face)
    of_flat = jnp.minimum(jnp.minimum(jnp.abs(x), jnp.abs(y)), jnp.abs(z))
    within = jnp.where(inside, _depth(y, x, z), _depth(x, y - x, -z))  # the polar is the cone in other coordinates
    return jnp.where(inside | polar, within, jnp.where(flat, of_flat, outside))


def _depth(y: jax.Array, x: jax.Array, z: jax.Array) -> jax.Array:
    """How deep (x, y, z) lies in {y > 0, y exp(x / y) <= z}."""
    ratio = x / jnp.where(y > 0, y, 1)
    growth = jnp.exp(ratio)
    slope = jnp.sqrt(1 + growth**2 * (1 + (1 - ratio) ** 2))
    return jnp.maximum(jnp.minimum(y, (z - y * growth) / slope), 0)


class _Regions(NamedTuple):
    inside: jax.Array
    polar: jax.Array
    flat: jax.Array  # the nearest point lies on the face y = 0


def _regions(point: jax.Array) -> _Regions:
    x, y, z = point
    inside = (y > 0) & (y * jnp.exp(x / jnp.where(y > 0, y, 1)) <= z) | (y == 0) & (x <= 0) & (z >= 0)
    polar = (x > 0) & (x * jnp.exp(y / jnp.where(x > 0, x, 1) - 1) <= -z) | (x == 0) & (y <= 0) & (z <= 0)
    return _Regions(inside, polar & ~inside, (x <= 0) & (y <= 0) & ~inside & ~polar)


@jax.custom_jvp
def _project(point: jax.Array) -> jax.Array:
    inside, polar, flat = _regions(point)
    face = jnp.stack([point[0], jnp.zeros_like(point[1]), jnp.maximum(point[2], 0)])
    outside = jnp.where(polar, 0, jnp.where(flat, face, _boundary_point(point)))
    return jnp.where(inside, point, outside)


def _weights(r: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a(r) and b(r) of the decomposition."""
    square = r * r - r + 1
    return (y + (r - 1) * x) / square, (x - r * y) / square


def _excess(r: jax.Array, x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    a, b = _weights(r, x, y)
    return a * jnp.exp(r) - b * jnp.exp(-r) - z


def _boundary_point(point: jax.Array) -> jax.Array:
    """The nearest point of the curved boundary. Beyond |r| = limit the boundary is a face to within rounding."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(point)))
    x, y, z = jnp.ldexp(point, -exponent)  # a power of two: scaling back is exact
    limit = -1.7 * jnp.log(jnp.finfo(point.dtype).eps).astype(point.dtype)
    first = 1 - y / jnp.where(x == 0, 1, x)  # where a changes sign
    second = x / jnp.where(y == 0, 1, y)  # where b changes sign
    lower = jnp.maximum(jnp.where(x > 0, first, -limit), jnp.where(y < 0, second, -limit))
    upper = jnp.minimum(jnp.where(x < 0, first, limit), jnp.where(y > 0, second, limit))
    r = bracketed_root(_excess, jnp.clip(lower, -limit, limit), jnp.clip(upper, -limit, limit), x, y, z)
    a, b = (jnp.maximum(weight, 0) for weight in _weights(r, x, y))
    rising = jnp.stack([a * r, a, jnp.maximum(z + b * jnp.exp(-r), 0)])
    falling = jnp.stack([x - b, jnp.maximum(y + b * (r - 1), 0), a * jnp.exp(r)])
    return jnp.ldexp(jnp.where(r > 0, rising, falling), exponent)


@_project.defjvp
def _project_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (point,), (direction,) = primals, tangents
    projected = _project(point)
    inside, polar, flat = _regions(point)
    face = direction * jnp.stack(
        [jnp.ones_like(point[0]), jnp.zeros_like(point[0]), (point[2] > 0).astype(point.dtype)]
    )
    curved = ~(inside | polar | flat)
    along = _tangential(jnp.where(curved, point, 1), jnp.where(curved, projected, 1), direction)
    return projected, jnp.where(inside, direction, jnp.where(polar, 0, jnp.where(flat, face, along)))


def _tangential(point: jax.Array, projected: jax.Array, direction: jax.Array) -> jax.Array:
    """D = u u' + a / (a + b (q'w)^2) w w', u along the ray of the projected point and w the other tangent.

    The Hessian of the constraint is a multiple of q q' with q = (-1, r, 0), which vanishes along the ray.
    """
    x, a, z = projected
    curved = a > 0
    r = jnp.where(curved, x / jnp.where(curved, a, 1), 1)
    rise, fall = jnp.exp(-jnp.maximum(r, 0)), jnp.exp(jnp.minimum(r, 0))
    ray = jnp.where(curved, jnp.stack([r * rise, rise, fall]), jnp.array([0.0, 0.0, 1.0], point.dtype))
    normal = jnp.where(curved, jnp.stack([-fall, (r - 1) * fall, rise]), jnp.array([0.0, 1.0, 0.0], point.dtype))
    ray, normal = ray / norm(ray), normal / norm(normal)
    other = jnp.cross(normal, ray)
    b = jnp.maximum(jnp.where(r > 0, point[0] - x, (z - point[2]) * fall), 0)
    bend = b * (r * other[1] - other[0]) ** 2
    share = jnp.where(curved, a, 0) / jnp.where(curved, a + bend, 1)
    on_ray = jnp.where(curved | (z > 0), ray @ direction, 0)
    return on_ray * ray + share * (other @ direction) * other
