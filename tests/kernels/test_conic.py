"""The homogeneous interior-point method, on programs with known solutions."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

from bilevel.foundation.status import Code
from bilevel.kernels.conic import Data, solve_conic
from bilevel.kernels.equilibrate import units
from bilevel.kernels.second_orders import SecondOrders


def ball(center, radius=1.0):
    """min 1/2 ||x||^2 - center'x over ||x|| <= radius, as a program over one second-order cone."""
    n = len(center)
    G = jnp.concatenate([jnp.zeros((1, n)), -jnp.eye(n)])
    h = jnp.zeros(n + 1).at[0].set(radius)
    return Data(jnp.eye(n), -jnp.asarray(center), jnp.zeros((0, n)), jnp.zeros(0), G, h), SecondOrders((n + 1,))


def solved(data, cones):
    def run(data):
        return solve_conic(data, cones, units(data, cones), 1e-12, 60)

    return jax.jit(run)(data)


@pytest.mark.parametrize("center", [[3.0, 4.0], [0.3, 0.1, -0.2]])
def test_the_projection_on_a_ball(center):
    found = solved(*ball(center))
    center = jnp.asarray(center)
    assert int(found.code) in (Code.converged, Code.stalled)
    assert_allclose(found.x, center / jnp.maximum(jnp.linalg.norm(center), 1), atol=1e-8)
    assert_allclose(found.z @ found.s, 0, atol=1e-8)


def orthant(infeasible=False):
    """min q'x over x >= 0, sum x = 1 (or -1): the smallest entry of q wins."""
    q = jnp.array([0.3, -0.2, 0.5])
    E, e = jnp.ones((1, 3)), jnp.array([-1.0 if infeasible else 1.0])
    return Data(jnp.zeros((3, 3)), q, E, e, -jnp.eye(3), jnp.zeros(3)), SecondOrders((1, 1, 1))


def test_a_linear_program_and_its_multipliers():
    found = solved(*orthant())
    assert_allclose(found.x, [0, 1, 0], atol=1e-8)
    assert_allclose(found.y, [0.2], atol=1e-8)
    assert_allclose(found.z, [0.5, 0.0, 0.7], atol=1e-8)


@pytest.mark.slow
def test_no_point_and_no_minimum_are_proved():
    data, cones = orthant(infeasible=True)
    found = solved(data, cones)
    assert int(found.code) == Code.infeasible
    assert float(data.e @ found.y) < 0  # Farkas: E'y - z = 0 with z >= 0
    assert_allclose(data.E.T @ found.y + data.G.T @ found.z, 0, atol=1e-8)
    free = data._replace(E=jnp.zeros((0, 3)), e=jnp.zeros(0))
    found = solved(free, cones)
    assert int(found.code) == Code.unbounded
    assert float(free.q @ found.x) < 0
