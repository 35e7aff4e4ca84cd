import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue_sets import RANDOM, of_transport, polyhedral

from bilevel.projections import birkhoff, transport

certificate = polyhedral(of_transport)


def test_the_derivative_in_the_point_is_not_zero():
    """It is identically zero in JAXopt 0.8.5, where finite differences give -0.065546."""
    point = jnp.array([[0.3, -0.1, 0.2], [0.0, 0.4, -0.2], [0.1, 0.2, 0.3]])
    sums = jnp.full(3, 1 / 3)
    scalar = jax.jit(lambda x: jnp.sum(jnp.sin(3 * transport(x, sums, sums))))
    direction = jnp.zeros((3, 3)).at[0, 0].set(1.0)
    difference = (scalar(point + 1e-6 * direction) - scalar(point - 1e-6 * direction)) / 2e-6
    slope = jax.jit(jax.grad(scalar))(point)[0, 0]
    assert abs(slope) > 1e-2
    np.testing.assert_allclose(slope, difference, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n"), [(6, 9), (9, 6), (12, 12)])
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_random_plans_are_exact(m, n, size):
    """JAXopt stops at 1e-3."""
    project = jax.jit(transport)
    for _ in range(5):
        point, rows, columns = (
            size * RANDOM.normal(size=(m, n)),
            RANDOM.dirichlet(np.ones(m)),
            RANDOM.dirichlet(np.ones(n)),
        )
        plan = np.asarray(project(point, rows, columns))
        assert certificate(plan, point, rows, columns) < 1e-12 * max(1, size)


def test_impossible_sums_are_nan_and_so_are_their_derivatives():
    point, sums = jnp.eye(3), jnp.ones(3)
    project = jax.jit(transport)
    assert np.isnan(project(point, sums, 1.1 * sums)).all()
    assert np.isnan(project(point, jnp.array([2.0, 2.0, -1.0]), sums)).all()
    assert np.isnan(jax.jit(jax.grad(lambda x: transport(x, sums, 1.1 * sums)[0, 0]))(point)).all()


def test_degenerate_plans():
    project = jax.jit(transport)
    np.testing.assert_allclose(project(jnp.zeros((3, 3)), jnp.ones(3), jnp.ones(3)), np.full((3, 3), 1 / 3), atol=1e-14)
    np.testing.assert_allclose(project(10 * jnp.eye(3), jnp.ones(3), jnp.ones(3)), np.eye(3), atol=1e-14)
    empty = project(10 * jnp.eye(3), jnp.array([1.0, 0.0, 1.0]), jnp.full(3, 2 / 3))
    np.testing.assert_allclose(empty[1], 0, atol=1e-14)
    np.testing.assert_allclose(empty.sum(axis=0), 2 / 3)
    assert np.isfinite(jax.jit(jax.jacrev(birkhoff))(10 * jnp.eye(3))).all()
