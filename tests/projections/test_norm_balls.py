import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.projections import l1_ball, l1_sphere, l2_ball, l2_sphere


@pytest.mark.parametrize("projection", [l1_ball, l2_ball])
def test_the_derivative_at_the_origin_is_the_identity_also_under_vmap(projection):
    """NaN in JAXopt 0.8.5."""
    jacobian = jax.vmap(jax.jacrev(projection))(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(jacobian, np.broadcast_to(np.eye(3), (2, 3, 3)))


@pytest.mark.parametrize("projection", [l1_ball, l2_ball, l1_sphere, l2_sphere])
def test_values_and_derivatives_are_finite_at_kinks(projection):
    points = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1e200, -1e200, 1.0]])

    @jax.jit
    @lambda f: jax.vmap(jax.vmap(f, in_axes=(0, None)), in_axes=(None, 0))
    def orders(point, radius):
        derivatives = jax.jacfwd(projection), jax.jacrev(projection, argnums=1), jax.hessian(projection)
        return projection(point, radius), *(derivative(point, radius) for derivative in derivatives)

    for order in orders(points, jnp.array([0.0, 1.0])):
        assert np.isfinite(order).all()


@pytest.mark.parametrize(("projection", "order"), [(l1_sphere, 1), (l2_sphere, 2)])
def test_the_nearest_points_of_the_origin_are_on_the_sphere(projection, order):
    """Optax returns the origin for the first and NaN for the second."""
    np.testing.assert_allclose(np.linalg.norm(projection(jnp.zeros(4), 3.0), order), 3.0)


@pytest.mark.parametrize("projection", [l1_ball, l2_ball, l1_sphere, l2_sphere])
def test_a_tree_is_one_vector_and_a_negative_radius_nan(projection):
    tree = {"a": jnp.array([3.0, -1.0]), "b": jnp.array(2.0)}
    flat = projection(jnp.array([3.0, -1.0, 2.0]), 1.5)
    projected = projection(tree, 1.5)
    np.testing.assert_array_equal(jnp.append(projected["a"], projected["b"]), flat)
    assert np.isnan(projection(tree["a"], -1.0)).all()


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_balls_at_points_of_every_size_and_without_a_radius(mode):
    x = jnp.array([3.0, 4.0])
    for projection in (l2_ball, l2_sphere):
        tiny = mode(projection)(1e-200 * x, 1e-200)
        np.testing.assert_allclose(tiny, mode(projection)(x, 1.0), rtol=1e-12, atol=1e-16)
    for projection in (l1_ball, l2_ball):
        np.testing.assert_array_equal(mode(projection)(jnp.zeros(2), 0.0), np.zeros((2, 2)))
