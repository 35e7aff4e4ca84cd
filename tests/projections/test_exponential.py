import jax
import numpy as np

from bilevel.projections import exponential_cone

RANDOM = np.random.default_rng(0)
PLAIN = RANDOM.normal(size=(800, 3))
SCALED = RANDOM.normal(size=(800, 3)) * 10.0 ** RANDOM.uniform(-6, 6, size=(800, 3))
CORNERS = np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3)).reshape(3, -1).T
POINTS = np.concatenate([PLAIN, SCALED, CORNERS])


def outside(points):
    """The distance from the cone to first order: its constraint divided by the gradient."""
    x, y, z = points.T
    inner = y > 0
    with np.errstate(over="ignore", invalid="ignore"):
        r = np.where(inner, x / np.where(inner, y, 1), 0)
        gradient = np.sqrt(np.exp(2 * r) * (1 + (1 - r) ** 2) + 1)
        curved = np.where(np.isfinite(gradient), (y * np.exp(r) - z) / gradient, 0)
    return np.where(inner, curved, np.maximum(np.maximum(x, -y), -z))


def outside_dual(points):
    """The same for the dual cone {u < 0, -u exp(v / u) <= e w}."""
    u, v, w = points.T
    inner = u < 0
    with np.errstate(over="ignore", invalid="ignore"):
        r = np.where(inner, v / np.where(inner, u, 1), 0)
        grown = np.exp(r - 1)
        gradient = np.sqrt(grown**2 * ((1 - r) ** 2 + 1) + 1)
        curved = np.where(np.isfinite(gradient), (-u * grown - w) / gradient, 0)
    return np.where(inner, curved, np.maximum(u, -np.minimum(v, w)))


def test_moreau_decomposition_at_all_scales():
    projected = np.asarray(jax.jit(exponential_cone)(POINTS))
    size = np.maximum(np.abs(POINTS).max(axis=1), 1e-300)
    assert np.isfinite(projected).all()
    assert (outside(projected) / size).max() < 1e-14
    assert (outside_dual(projected - POINTS) / size).max() < 1e-14
    primal, dual = projected / size[:, None], (projected - POINTS) / size[:, None]
    assert np.abs(np.sum(primal * dual, axis=1)).max() < 1e-14


def test_the_derivative_is_a_symmetric_contraction_everywhere():
    forward, reverse = (
        np.asarray(jax.jit(jax.vmap(mode(exponential_cone)))(POINTS)) for mode in (jax.jacfwd, jax.jacrev)
    )
    np.testing.assert_allclose(forward, reverse, atol=1e-14)
    np.testing.assert_allclose(forward, np.swapaxes(forward, 1, 2), atol=1e-14)
    eigenvalues = np.linalg.eigvalsh(forward)
    assert eigenvalues.min() > -1e-14 and eigenvalues.max() < 1 + 1e-14


def test_the_derivative_is_that_of_the_map():
    jacobian = np.asarray(jax.jit(jax.vmap(jax.jacfwd(exponential_cone)))(PLAIN))
    step, project = 1e-6, jax.jit(exponential_cone)
    ends = [np.stack([project(PLAIN + way * step * axis) for axis in np.eye(3)], axis=-1) for way in (1, -1)]
    error = np.abs((ends[0] - ends[1]) / (2 * step) - jacobian).max(axis=(1, 2))
    assert np.quantile(error, 0.99) < 1e-8  # the others are within a step of a kink or strongly curved
