import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import cones

RANDOM = np.random.default_rng(0)
CONES = [
    cones.Zero(3),
    cones.Free(3),
    cones.NonNegative(3),
    cones.SecondOrder(4),
    cones.PSD(3),
    cones.Exponential(),
    cones.Dual(cones.Exponential()),
    cones.Power(0.3),
    cones.Product(cones.Zero(1), cones.NonNegative(2), cones.SecondOrder(3), cones.PSD(2), cones.Exponential()),
]


@pytest.mark.parametrize("cone", CONES[:-1], ids=str)
def test_a_cone_by_rows_is_one_whose_rows_may_be_scaled_one_by_one(cone):
    """D s stays in the cone for every positive diagonal D, and in no other cone of the list does it for all s."""
    points = cone.project(RANDOM.normal(size=(40, cone.dim)))
    scaled = points * RANDOM.uniform(0.1, 10.0, cone.dim)
    stays = np.allclose(cone.project(scaled), scaled, rtol=1e-9, atol=1e-9)
    assert stays == cone.by_rows


@pytest.mark.parametrize("cone", CONES, ids=str)
def test_moreau_decomposition(cone):
    """x = p - d with p in K, d in K* and <p, d> = 0, on a batch."""
    points = RANDOM.normal(size=(40, cone.dim))
    project, project_dual = jax.jit(cone.project), jax.jit(cone.project_dual)
    primal, dual = project(points), project_dual(-points)
    np.testing.assert_allclose(primal - dual, points, atol=1e-14)
    np.testing.assert_allclose(jnp.sum(primal * dual, axis=-1), 0, atol=1e-13)
    np.testing.assert_allclose(project(primal), primal, atol=1e-13)
    np.testing.assert_allclose(project_dual(dual), dual, atol=1e-13)
    assert (jnp.einsum("im,jm->ij", primal, dual) > -1e-13).all()


@pytest.mark.parametrize("cone", CONES, ids=str)
def test_the_dual_of_the_dual_is_the_cone(cone):
    assert cone.dual.dual == cone
    assert cone.dual.dim == cone.dim


@pytest.mark.parametrize("cone", CONES, ids=str)
def test_the_derivative_is_a_symmetric_contraction(cone):
    jacobian = jax.jit(jax.vmap(jax.jacrev(cone.project)))(RANDOM.normal(size=(10, cone.dim)))
    np.testing.assert_allclose(jacobian, np.swapaxes(jacobian, 1, 2), atol=1e-13)
    eigenvalues = np.linalg.eigvalsh(jacobian)
    assert eigenvalues.min() > -1e-13 and eigenvalues.max() < 1 + 1e-13


def test_svec_keeps_inner_products_and_lists_the_lower_triangle_by_columns():
    left, right = (matrix + np.swapaxes(matrix, 1, 2) for matrix in RANDOM.normal(size=(2, 5, 4, 4)))
    np.testing.assert_allclose(jnp.sum(cones.svec(left) * cones.svec(right), -1), np.einsum("kij,kij->k", left, right))
    np.testing.assert_allclose(cones.smat(cones.svec(left)), left, atol=1e-15)
    entries = np.array([[11.0, 21, 31], [21, 22, 32], [31, 32, 33]])
    order = cones.svec(entries) / np.sqrt([1, 2, 2, 1, 2, 1])
    np.testing.assert_allclose(order, [11.0, 21, 31, 22, 32, 33])


def test_a_point_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="holds vectors of length 6; the point has shape"):
        cones.PSD(3).project(jnp.zeros(9))


def test_a_power_that_is_none_is_refused():
    with pytest.raises(ValueError, match="needs 0 < alpha < 1; it is 1.5"):
        cones.Power(1.5)


@pytest.mark.parametrize("cone", CONES, ids=str)
def test_the_spectrum_is_that_of_the_derivative(cone):
    """Where it is known: V is orthogonal, V' diag(values) V is the Jacobian, and so are their derivatives."""
    if cone.spectrum(jnp.ones(cone.dim)) is None:
        assert isinstance(cone, (cones.PSD, cones.Exponential, cones.Power, cones.Dual, cones.Product))
        return

    def matrix(point):
        at = cone.spectrum(point)
        assert at is not None
        values, forward, backward = at
        return jax.vmap(lambda w: backward(values * forward(w)))(jnp.eye(cone.dim))

    for seed in range(20):
        point = jax.random.normal(jax.random.key(seed), (cone.dim,))
        at, jacobian = cone.spectrum(point), jax.jacobian(cone.project)
        assert at is not None
        V = at.forward(jnp.eye(cone.dim))
        np.testing.assert_allclose(V @ V.T, jnp.eye(cone.dim), atol=1e-14)
        np.testing.assert_allclose(at.backward(V), jnp.eye(cone.dim), atol=1e-14)
        np.testing.assert_allclose(matrix(point), jacobian(point), atol=1e-14)
        np.testing.assert_allclose(jax.jacobian(matrix)(point), jax.jacobian(jacobian)(point), atol=1e-13)
    for point in (jnp.zeros(cone.dim), jnp.eye(cone.dim)[0], -jnp.eye(cone.dim)[0]):
        assert jnp.all(jnp.isfinite(matrix(point)))
