import jax
import jax.numpy as jnp
import numpy as np

from bilevel.projections import box, hypercube, linf_ball, non_negative


def test_bounds_are_shared_or_a_tree():
    tree = {"w": jnp.array([-2.0, 0.5]), "b": jnp.array(3.0)}
    shared, own = box(tree, 0.0, 1.0), box(tree, {"w": jnp.array([-1.0, 0.0]), "b": 0.0}, 1.0)
    assert (shared["w"].tolist(), float(shared["b"])) == ([0.0, 0.5], 1.0)
    assert own["w"].tolist() == [-1.0, 0.5]
    assert float(hypercube(tree, 2.0)["b"]) == 2.0
    assert float(linf_ball(tree, 2.0)["b"]) == 2.0
    assert float(non_negative(tree)["w"][0]) == 0.0


def test_crossed_bounds_are_nan_and_so_is_their_derivative_in_both_modes():
    point, lower, upper = jnp.array([0.0, 0.0]), jnp.array([-1.0, 2.0]), jnp.array([1.0, 1.0])
    np.testing.assert_array_equal(np.isnan(box(point, lower, upper)), [False, True])
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_array_equal(np.isnan(np.diag(jacobian(box)(point, lower, upper))), [False, True])
    assert np.isnan(linf_ball(point, -1.0)).all()


def test_infinite_bounds():
    assert box(jnp.array([-1e30, 1e30]), -jnp.inf, jnp.array([jnp.inf, 1.0])).tolist() == [-1e30, 1.0]
