import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.isotonic import isotonic_regression

import bilevel as bl
from bilevel.projections import isotonic


def test_scikit_learn_agrees_on_a_batch():
    points = np.random.default_rng(0).normal(size=(20, 50))
    expected = [isotonic_regression(point) for point in points]
    np.testing.assert_allclose(isotonic(points), expected, atol=1e-14)


def test_edge_cases():
    assert isotonic(jnp.array([3.0])).tolist() == [3.0]
    assert isotonic(jnp.zeros(4)).tolist() == [0.0] * 4
    np.testing.assert_allclose(isotonic(1e12 - jnp.arange(4.0)), np.full(4, 1e12 - 1.5))


def test_infinite_entries():
    point = jnp.array([-jnp.inf, 1.0, 0.0])
    assert isotonic(point).tolist() == [-np.inf, 0.5, 0.5]
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_array_equal(mode(isotonic)(point), [[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])


@pytest.mark.parametrize("increasing", [True, False])
def test_isotonic_between_bounds_solves_its_program(increasing):
    """min 1/2 |p - x|^2 over monotone p in a box, by a quadratic program."""
    x = np.array([0.3, 2.0, -1.0, 0.4, 1.7, 0.9])
    sign = 1 if increasing else -1
    steps = sign * (np.eye(6)[:-1] - np.eye(6)[1:])
    rows = np.concatenate([steps, np.eye(6), -np.eye(6)])
    right = np.concatenate([np.zeros(5), np.full(6, 0.8), np.full(6, 0.1)])
    wanted = bl.quadratic_program(np.eye(6), -x, G=rows, h=right).params
    project = lambda lower, upper: bl.projections.isotonic(x, lower, upper, increasing=increasing)
    assert_allclose(project(-0.1, 0.8), wanted, atol=1e-8)
    moved = jax.jacobian(project, argnums=(0, 1))(-0.1, 0.8)
    assert_allclose(moved[0], np.isclose(wanted, -0.1), atol=1e-12)
    assert_allclose(moved[1], np.isclose(wanted, 0.8), atol=1e-12)


def test_isotonic_between_bounds_that_contradict_each_other_is_nan():
    assert np.all(np.isnan(bl.projections.isotonic(np.arange(3.0), 1.0, 0.0)))
