import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue_entry import nearest_error
from catalogue_sets import of_section

from bilevel.projections import box_section, capped_simplex, simplex


def test_random_sections_are_exact_with_infinite_bounds_and_weights_of_any_sign():
    random = np.random.default_rng(0)
    size, count = 7, 60
    points, weights = random.normal(size=(2, count, size))
    weights[random.uniform(size=weights.shape) < 0.1] = 0
    lower = random.uniform(-1.5, 0, size=(count, size))
    upper = lower + random.uniform(0, 1, size=lower.shape)
    inside = lower + random.uniform(size=lower.shape) * (upper - lower)
    lower[random.uniform(size=lower.shape) < 0.2] = -np.inf
    upper[random.uniform(size=upper.shape) < 0.2] = np.inf
    totals = np.sum(weights * inside, axis=1)
    projected = np.asarray(jax.jit(box_section)(points, lower, upper, weights, totals))
    for p, *rest in zip(projected, points, lower, upper, weights, totals, strict=True):
        assert nearest_error(of_section(*rest), rest[0], p) < 1e-13


def test_without_a_cap_it_is_the_simplex():
    points = np.random.default_rng(1).normal(size=(4, 9))
    np.testing.assert_allclose(jax.jit(capped_simplex)(points, jnp.inf, 1.3), simplex(points, 1.3), atol=1e-15)


@pytest.mark.parametrize(("upper", "total"), [(0.3, 1.6), (0.3, -0.1), (-0.5, 0.0)])
def test_an_infeasible_section_is_nan_and_so_is_its_derivative(upper, total):
    point = jnp.array([0.3, -0.2, 0.9, 0.5])
    assert np.isnan(capped_simplex(point, upper, total)).all()
    assert np.isnan(jax.jit(jax.jacrev(capped_simplex))(point, upper, total)).any()


@pytest.mark.parametrize("total", [0.0, 1.2])
def test_at_the_ends_of_the_feasible_totals_the_derivative_is_finite(total):
    point = jnp.array([0.3, -0.2, 0.9, 0.5])
    np.testing.assert_allclose(capped_simplex(point, 0.3, total), np.full(4, total / 4), atol=1e-15)
    assert np.isfinite(jax.jit(jax.jacfwd(capped_simplex))(point, 0.3, total)).all()
