import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import prox

RANDOM = np.random.default_rng(0)


def test_group_lasso_at_zero_has_a_finite_derivative_also_under_vmap():
    """NaN in JAXopt 0.8.5."""
    for derivative in (jax.jacfwd(prox.group_lasso), jax.jacrev(prox.group_lasso), jax.hessian(prox.group_lasso)):
        assert (jax.jit(jax.vmap(derivative))(jnp.zeros((2, 3))) == 0).all()
    at_zero_weight = jax.jacrev(prox.group_lasso)(jnp.zeros(3), 1.0, 0.0)
    assert np.isfinite(at_zero_weight).all()


def test_groups_are_rows_and_weights_broadcast_against_them():
    point, weights = RANDOM.normal(size=(2, 3, 4)), np.array([0.1, 0.5, 9.0])
    result = prox.group_lasso(point, 0.7, weights)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(result[i, j], prox.group_lasso(point[i, j], 0.7, weights[j]))
    assert (result[:, 2] == 0).all()


def singular(values, m=4, n=5):
    left = np.linalg.qr(RANDOM.normal(size=(m, m)))[0][:, : len(values)]
    right = np.linalg.qr(RANDOM.normal(size=(n, n)))[0][: len(values)]
    return left @ np.diag(values) @ right


NUCLEAR = jax.jit(prox.nuclear_norm)
FORWARD, REVERSE = (jax.jit(mode(prox.nuclear_norm)) for mode in (jax.jacfwd, jax.jacrev))


@pytest.mark.parametrize("values", [[2.0, 2.0, 0.5, 0.5], [2.0, 2.0], [3.0, 2.0, 2.0, 2.0], [2.0, 0.5, 0.5, 0.0]])
def test_the_nuclear_norm_at_repeated_and_zero_values_has_the_derivative_of_the_map(values):
    point, direction, step = singular(values), RANDOM.normal(size=(4, 5)), 1e-6
    difference = (NUCLEAR(point + step * direction, 1.0) - NUCLEAR(point - step * direction, 1.0)) / (2 * step)
    np.testing.assert_allclose(jnp.tensordot(FORWARD(point, 1.0), direction, 2), difference, atol=1e-8)
    np.testing.assert_allclose(FORWARD(point, 1.0), REVERSE(point, 1.0), atol=1e-13)


def test_the_nuclear_norm_at_zero_and_without_a_threshold():
    assert (FORWARD(np.zeros((4, 5)), 1.0) == 0).all()
    np.testing.assert_allclose(np.reshape(FORWARD(singular([2.0, 1.0]), 0.0), (20, 20)), np.eye(20), atol=1e-13)


def test_a_tall_matrix_is_the_transpose_of_a_wide_one():
    point = RANDOM.normal(size=(2, 4, 5))
    tall = prox.nuclear_norm(np.swapaxes(point, 1, 2), 0.7, 1.5)
    np.testing.assert_allclose(np.swapaxes(tall, 1, 2), prox.nuclear_norm(point, 0.7, 1.5), atol=1e-14)


def test_l_inf_is_over_a_whole_tree():
    tree = {"a": jnp.array([3.0, 1.0]), "b": jnp.array(-2.0)}
    result = prox.l_inf(tree, 1.0, 2.0)
    assert (result["a"].tolist(), float(result["b"])) == ([1.5, 1.0], -1.5)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_norms_without_a_weight_are_the_identity_at_zero_too(mode):
    for operator in (prox.group_lasso, prox.l_inf):
        np.testing.assert_array_equal(mode(operator)(jnp.zeros(3), 1.0, 0.0), np.eye(3))


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_group_lasso_of_tiny_groups(mode):
    x = jnp.array([3.0, 4.0])
    tiny = mode(prox.group_lasso)(1e-200 * x, 1.0, 1e-200)
    np.testing.assert_allclose(tiny, mode(prox.group_lasso)(x, 1.0, 1.0), rtol=1e-12)
