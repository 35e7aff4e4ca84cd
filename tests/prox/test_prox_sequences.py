import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue_proxes import sorted_l1_distance, total_variation_distance
from scipy.optimize import lsq_linear

from bilevel import prox

RANDOM = np.random.default_rng(0)
TOTAL_VARIATION, SORTED_L1 = jax.jit(prox.total_variation), jax.jit(prox.sorted_l1)


def test_total_variation_agrees_with_the_dual_box_problem():
    differences = np.diff(np.eye(12), axis=0)
    for _ in range(20):
        point, weights = 3 * RANDOM.normal(size=12), RANDOM.uniform(0.1, 2, size=11)
        dual = lsq_linear(differences.T, point, bounds=(-weights, weights), method="bvls", tol=1e-15).x
        result = np.asarray(TOTAL_VARIATION(point, 1.0, weights))
        np.testing.assert_allclose(result, point - differences.T @ dual, atol=1e-12)
        assert total_variation_distance(point - result, result, weights) < 1e-13


@pytest.mark.sample(2)
@pytest.mark.parametrize("weight", [0.0, 1e-17, 1.0, 1e8, 1e300])
def test_total_variation_at_extreme_weights_and_ties(weight):
    for point in (np.zeros(6), np.ones(6), np.array([1.0, 1, 2, 2, 1, 1]), RANDOM.normal(size=6)):
        result = TOTAL_VARIATION(point, 1.0, weight)
        expected = point if weight < 1e-10 else np.full(6, point.mean()) if weight > 1e5 else result
        np.testing.assert_allclose(result, expected, atol=1e-14)
        assert np.isfinite(jax.jit(jax.jacrev(prox.total_variation))(point, 1.0, weight)).all()


def test_a_long_line_in_linear_time():
    point = RANDOM.normal(size=50000).cumsum()
    result = np.asarray(TOTAL_VARIATION(point, 1.0, 10.0))
    assert total_variation_distance(point - result, result, 10.0) < 1e-9


def test_a_batch_and_a_single_entry():
    points = RANDOM.normal(size=(3, 9))
    loop = [TOTAL_VARIATION(point, 1.0, 0.3) for point in points]
    np.testing.assert_allclose(TOTAL_VARIATION(points, 1.0, 0.3), loop, atol=1e-15)
    assert prox.total_variation(jnp.array([2.0]), 1.0, 1.0).tolist() == [2.0]


def test_sorted_l1_contains_the_l1_and_the_l_inf_norm():
    point = RANDOM.normal(size=7)
    np.testing.assert_allclose(SORTED_L1(point, 0.7, 0.5), prox.l1(point, 0.7, 0.5), atol=1e-15)
    highest = np.eye(7)[0] * 1.3
    np.testing.assert_allclose(SORTED_L1(point, 0.7, highest), prox.l_inf(point, 0.7, 1.3), atol=1e-15)


def test_sorted_l1_is_exact_with_ties_and_weights_in_any_order():
    for _ in range(20):
        point, weights = RANDOM.normal(size=7).round(1), RANDOM.uniform(0, 1, size=7).round(1)
        result = np.asarray(SORTED_L1(point, 1.0, weights))
        assert sorted_l1_distance(point - result, result, weights) < 1e-13


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_pairs_without_a_weight_are_apart_and_pairs_of_infinite_weight_are_one(mode):
    derivative = jax.jit(mode(prox.total_variation))
    np.testing.assert_array_equal(derivative(jnp.ones(3), 1.0, jnp.zeros(2)), np.eye(3))
    x, weights = jnp.array([1.0, 3.0, 9.0]), jnp.array([jnp.inf, 1.0])
    np.testing.assert_allclose(prox.total_variation(x, 1.0, weights), [2.5, 2.5, 8.0], rtol=1e-15)
    np.testing.assert_allclose(derivative(x, 1.0, weights), [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]], atol=1e-15)
    by_weight = jax.jit(mode(prox.total_variation, argnums=2))(x, 1.0, weights)
    np.testing.assert_allclose(by_weight, [[0, 0.5], [0, 0.5], [0, -1]], atol=1e-15)


def test_sequences_of_no_entries():
    assert prox.total_variation(jnp.zeros(0)).shape == prox.sorted_l1(jnp.zeros(0)).shape == (0,)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_sorted_l1_moves_what_no_weight_lowers_at_zero_too(mode):
    derivative = jax.jit(mode(prox.sorted_l1))(jnp.array([3.0, 0.0, 1.0]), 1.0, jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(derivative, np.eye(3))
