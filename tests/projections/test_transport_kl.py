import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.projections import transport_kl

RANDOM = np.random.default_rng(4)
PROJECT = jax.jit(transport_kl)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0, 3000.0])
def test_sums_hold_at_any_spread(spread):
    for _ in range(3):
        point = spread * RANDOM.normal(size=(9, 9))
        rows, columns = RANDOM.dirichlet(np.ones(9)), RANDOM.dirichlet(np.ones(9))
        plan = PROJECT(point, rows, columns)
        np.testing.assert_allclose(plan.sum(axis=1), rows, atol=1e-13)
        np.testing.assert_allclose(plan.sum(axis=0), columns, atol=1e-12)


def test_forbidden_entries_empty_sums_and_impossible_problems():
    point = np.zeros((3, 3))
    point[0, 0] = -np.inf
    np.testing.assert_allclose(
        PROJECT(point, np.ones(3), np.ones(3)), [[0, 0.5, 0.5], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]
    )
    empty = PROJECT(np.eye(3), np.full(3, 2 / 3), np.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(empty[:, 1], 0, atol=1e-150)
    assert np.isnan(PROJECT(np.eye(3), np.ones(3), 1.1 * np.ones(3))).all()
    point[0] = -np.inf
    assert np.isnan(PROJECT(point, np.ones(3), np.ones(3))).all()


def test_the_derivative_at_an_empty_column_is_one_sided_and_right():
    point, rows, columns = RANDOM.normal(size=(3, 3)), np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.0, 0.4])
    jacobian = jax.jit(jax.jacfwd(transport_kl, argnums=2))(point, rows, columns)
    direction, step = np.array([-0.5, 1.0, -0.5]), 1e-8
    difference = (PROJECT(point, rows, columns + step * direction) - PROJECT(point, rows, columns)) / step
    np.testing.assert_allclose(jacobian @ jnp.asarray(direction), difference, atol=1e-6)
