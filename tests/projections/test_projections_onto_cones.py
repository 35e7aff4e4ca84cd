import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.projections import psd_cone, second_order_cone


def test_the_second_order_cone_has_finite_derivatives_at_its_kinks():
    points = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    for order in (second_order_cone, jax.jacfwd(second_order_cone), jax.hessian(second_order_cone)):
        assert np.isfinite(jax.jit(jax.vmap(order))(points)).all()


@pytest.mark.parametrize(
    "values", [[0.0, 0, 0, 0], [1.0, 1, 1, 1], [1.0, 1, -1, -1], [2.0, 0, 0, -1], [1e-9, 1e-9, -1e-9, 1]]
)
def test_the_derivative_at_repeated_eigenvalues_is_finite_and_symmetric(values):
    """Through the eigenvectors it is NaN."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    matrix = basis @ np.diag(values) @ basis.T
    forward, reverse = (mode(psd_cone)(matrix) for mode in (jax.jacfwd, jax.jacrev))
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(forward, reverse, atol=1e-13)
    np.testing.assert_allclose(np.reshape(forward, (16, 16)), np.reshape(forward, (16, 16)).T, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(np.reshape(forward, (16, 16)))
    assert eigenvalues.min() > -1e-12 and eigenvalues.max() < 1 + 1e-12


def test_the_derivative_at_repeated_eigenvalues_is_that_of_the_map():
    matrix, direction = np.diag([1.0, 1.0, -1.0, -1.0]), np.random.default_rng(1).normal(size=(4, 4))
    step = 1e-6
    difference = (psd_cone(matrix + step * direction) - psd_cone(matrix - step * direction)) / (2 * step)
    _, slope = jax.jvp(psd_cone, (jnp.asarray(matrix),), (jnp.asarray(direction),))
    np.testing.assert_allclose(slope, difference, atol=1e-9)
