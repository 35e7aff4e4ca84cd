import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import prox


def test_weights_are_shared_or_a_tree():
    tree = {"w": jnp.array([-2.0, 0.5]), "b": jnp.array(3.0)}
    shared, own = prox.l1(tree, 1.0, 1.0), prox.l1(tree, 1.0, {"w": jnp.array([0.5, 0.1]), "b": 0.0})
    assert (shared["w"].tolist(), float(shared["b"])) == ([-1.0, 0.0], 2.0)
    assert (own["w"].tolist(), float(own["b"])) == ([-1.5, 0.4], 3.0)


def test_the_ridge_has_the_factor_one_half():
    """min over y of step * weight / 2 * y^2 + (y - x)^2 / 2."""
    grid = np.linspace(-1, 1, 200001)
    best = grid[np.argmin(0.7 * 0.8 / 2 * grid**2 + (grid - 0.9) ** 2 / 2)]
    assert abs(float(prox.ridge(0.9, 0.7, 0.8)) - best) < 1e-5


def test_the_elastic_net_is_the_soft_threshold_and_the_ridge():
    point = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(prox.elastic_net(point, 0.7, 0.8, 0.0), prox.l1(point, 0.7, 0.8))
    np.testing.assert_allclose(prox.elastic_net(point, 0.7, 0.0, 0.8), prox.ridge(point, 0.7, 0.8))


def test_the_log_barrier_neither_cancels_nor_overflows():
    points = jnp.array([-1e12, -1e200, 1e200, 0.0])
    values = prox.log_barrier(points, 1.0, 1.0)
    np.testing.assert_allclose(values, [1e-12, 1e-200, 1e200, 1.0], rtol=1e-14)
    assert prox.log_barrier(jnp.array([-1.0, 0.0, 1.0]), 1.0, 0.0).tolist() == [0.0, 0.0, 1.0]
    for argnum in range(3):
        assert np.isfinite(jax.jit(jax.jacfwd(prox.log_barrier, argnums=argnum))(points, 1.0, 1.0)).all()
        assert np.isfinite(jax.jit(jax.jacrev(prox.log_barrier, argnums=argnum))(points, 1.0, 0.0)).all()


def test_zero_weights_change_nothing():
    point = np.linspace(-2, 2, 9)
    for operator in (
        prox.l1,
        prox.ridge,
        prox.huber,
        prox.total_variation,
        prox.sorted_l1,
        prox.l_inf,
        prox.group_lasso,
    ):
        np.testing.assert_allclose(operator(point, 1.0, 0.0), point, atol=1e-15)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_without_a_weight_nothing_happens_at_zero_either(mode):
    """An unpenalised coordinate that is exactly 0 once got the derivative 0."""
    weights = jnp.array([0.0, 0.1])
    for operator, parameters in ((prox.l1, (weights,)), (prox.elastic_net, (weights, 0.0))):
        derivative = mode(operator)(jnp.array([0.0, 0.05]), 1.0, *parameters)
        np.testing.assert_array_equal(derivative, [[1.0, 0.0], [0.0, 0.0]])
