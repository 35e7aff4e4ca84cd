import jax
import jax.numpy as jnp
import numpy as np
from sklearn.isotonic import isotonic_regression

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
