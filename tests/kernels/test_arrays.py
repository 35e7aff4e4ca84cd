import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.arrays import as_point, like, map_leaves, norm, valid


def test_integers_become_floats_and_parameters_take_the_dtype_of_the_point():
    point = as_point(np.array([1, 2]))
    assert jnp.issubdtype(point.dtype, jnp.floating)
    assert like(np.float64(0.5), jnp.ones(2, jnp.float32)).dtype == jnp.float32
    assert map_leaves(lambda x, p: x * p, {"a": jnp.ones(2, jnp.float32)}, 2.0)["a"].dtype == jnp.float32


def test_the_norm_neither_overflows_nor_has_a_nan_derivative():
    np.testing.assert_allclose(norm(jnp.array([[3e300, 4e300], [3e-300, 4e-300], [0.0, 0.0]])), [5e300, 5e-300, 0.0])
    np.testing.assert_allclose(jax.grad(norm)(jnp.array([3.0, 4.0])), [0.6, 0.8])
    assert jax.hessian(norm)(jnp.zeros(2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.slow
def test_what_is_invalid_is_nan_with_its_derivative_and_the_rest_untouched():
    def function(x):
        return valid(x[:, :1] > 0, jnp.zeros_like(x), x)

    point = jnp.array([[1.0, 2.0], [-1.0, 2.0]])
    np.testing.assert_array_equal(np.isnan(function(point)), [[False, False], [True, True]])
    for jacobian in (jax.jacfwd(function)(point), jax.jacrev(function)(point)):
        assert np.isnan(jacobian[1, :, 1]).all() and (jacobian[0, :, 0] == 0).all()
