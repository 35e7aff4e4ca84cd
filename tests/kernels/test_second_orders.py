"""The algebra of second-order cones: its laws at random interior points, for the orthant and for mixed cones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.kernels.second_orders import SecondOrders, scaling

CONES = [SecondOrders((1, 1, 1)), SecondOrders((3,)), SecondOrders((1, 4, 2, 1))]


def interior(cones, seed, margin=0.1):
    v = np.random.default_rng(seed).normal(size=cones.size)
    for head, length in zip(cones.heads, cones.lengths, strict=True):
        v[head] = np.linalg.norm(v[head + 1 : head + length]) + margin + abs(v[head])
    return jnp.asarray(v)


@pytest.mark.parametrize("cones", CONES, ids=str)
def test_the_product_is_that_of_jordan(cones):
    u, v, e = interior(cones, 0), jnp.asarray(np.random.default_rng(1).normal(size=cones.size)), cones.identity(float)
    assert_allclose(cones.product(u, v), cones.product(v, u), rtol=1e-14)
    assert_allclose(cones.product(e, v), v, rtol=1e-14)
    assert_allclose(cones.product(u, cones.quotient(u, v)), v, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cones", CONES, ids=str)
def test_root_and_distance_by_their_definitions(cones):
    v = interior(cones, 2)
    pieces = [np.asarray(v[h : h + n]) for h, n in zip(cones.heads, cones.lengths, strict=True)]
    distance = [piece[0] - np.linalg.norm(piece[1:]) for piece in pieces]
    assert_allclose(cones.distance(v), distance, rtol=1e-12)
    if not cones.orthant:
        assert_allclose(cones.root(v), [np.sqrt(p[0] ** 2 - p[1:] @ p[1:]) for p in pieces], rtol=1e-12)


@pytest.mark.parametrize("cones", CONES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_longest_step_ends_on_the_border(cones, seed):
    v, step = interior(cones, seed), jnp.asarray(np.random.default_rng(seed + 9).normal(size=cones.size))
    longest = float(cones.longest(v, step))
    if np.isinf(longest):
        assert float(jnp.min(cones.distance(v + 1e6 * step))) >= 0
    else:
        size = float(jnp.linalg.norm(v + longest * step))
        assert abs(float(jnp.min(cones.distance(v + longest * step)))) <= 1e-10 * size
        assert float(jnp.min(cones.distance(v + 0.999 * longest * step))) > 0


@pytest.mark.parametrize("cones", CONES, ids=str)
def test_the_scaling_takes_both_points_to_one(cones):
    s, z = interior(cones, 3), 10.0 * interior(cones, 4)
    found = scaling(cones, s, z)
    assert_allclose(found.forward(cones, z), found.inverse(cones, s), rtol=1e-12)
    matrix = found.forward(cones, jnp.eye(cones.size))
    assert_allclose(matrix, matrix.T, atol=1e-13)
    assert_allclose(found.inverse(cones, matrix), jnp.eye(cones.size), atol=1e-12)
    assert_allclose(jax.vmap(lambda v: found.forward(cones, v))(jnp.eye(cones.size)), matrix, atol=1e-13)
