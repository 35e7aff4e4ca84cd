import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue_entry import nearest_error
from catalogue_sets import of_simplex

from bilevel.projections import simplex, simplex_kl, sparse_simplex

POINTS = np.random.default_rng(0).normal(size=(2, 3, 6))


def test_the_last_axis_is_projected_and_totals_broadcast():
    totals = [1.0, 2.0, 0.5]
    projected = simplex(POINTS, jnp.array(totals))
    for i in range(2):
        for j in range(3):
            assert nearest_error(of_simplex(POINTS[i, j], totals[j]), POINTS[i, j], np.asarray(projected[i, j])) < 1e-14


def test_large_entries_and_large_totals_lose_no_digits():
    assert simplex(jnp.array([1e30, -1e30, 0.0])).tolist() == [1.0, 0.0, 0.0]
    np.testing.assert_allclose(simplex(1e8 + jnp.array([0.25, 0.5])), [0.375, 0.625], atol=1e-12)


def test_a_total_of_zero_is_the_origin_and_a_negative_one_is_nan():
    assert simplex(POINTS[0, 0], 0.0).tolist() == [0.0] * 6
    assert np.isnan(simplex(POINTS[0, 0], -1.0)).all()
    assert np.isnan(jax.grad(lambda x: simplex(x, -1.0)[0])(POINTS[0, 0])).any()
    assert np.isnan(simplex_kl(POINTS[0, 0], -1.0)).all()


def test_ties_have_a_finite_derivative():
    jacobian = jax.jacrev(simplex)(jnp.zeros(4))
    np.testing.assert_allclose(jacobian, np.eye(4) - 0.25, atol=1e-15)


def test_sparse_simplex_keeps_the_largest_and_refuses_impossible_numbers():
    projected = sparse_simplex(POINTS, 2)
    assert ((projected > 0).sum(axis=-1) <= 2).all()
    np.testing.assert_allclose(projected.sum(axis=-1), 1.0)
    with pytest.raises(ValueError, match="keeps between 1 and 6"):
        sparse_simplex(POINTS, 7)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize(("point", "shares"), [([0.3, 1.0, -2.0], [0, 1, 0]), ([1.0, 1.0, -2.0], [0.5, 0.5, 0])])
def test_the_derivative_in_a_total_of_zero_is_that_for_a_growing_one(point, shares, mode):
    np.testing.assert_array_equal(mode(simplex, argnums=1)(jnp.array(point), 0.0), shares)
    np.testing.assert_array_equal(mode(simplex)(jnp.array(point), 0.0), np.zeros((3, 3)))
