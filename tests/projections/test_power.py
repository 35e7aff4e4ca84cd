"""The power cone at all scales: Moreau's decomposition, the derivative, its kinks."""

import jax
import numpy as np
import pytest

from bilevel.projections.power import power_cone, power_cone_distance

RANDOM = np.random.default_rng(0)
PLAIN = RANDOM.normal(size=(400, 3))
SCALED = RANDOM.normal(size=(400, 3)) * 10.0 ** RANDOM.uniform(-6, 6, size=(400, 3))
CORNERS = np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3)).reshape(3, -1).T
POINTS = np.concatenate([PLAIN, SCALED, CORNERS])
SIZE = np.abs(POINTS).max(axis=1).clip(1e-300)


def outside(points, alpha, scales=(1.0, 1.0)):
    """The distance from {(scales (x, y), z) in the cone} to first order: its constraint divided by the gradient."""
    x, y, z = points[:, 0] * scales[0], points[:, 1] * scales[1], np.abs(points[:, 2])
    inner = (x > 0) & (y > 0)
    x, y = np.where(inner, x, 1), np.where(inner, y, 1)
    mean = x**alpha * y ** (1 - alpha)
    gradient = np.sqrt((alpha * mean / x) ** 2 + ((1 - alpha) * mean / y) ** 2 + 1)
    return np.where(inner, (z - mean) / gradient, np.maximum(z, np.maximum(-points[:, 0], -points[:, 1])))


@pytest.mark.parametrize("alpha", [0.5, 0.15, 0.8])
def test_projection_and_derivative_everywhere(alpha):
    project = jax.jit(lambda point: power_cone(point, alpha))
    projected = np.asarray(project(POINTS))
    dual = projected - POINTS
    assert (outside(projected, alpha) / SIZE).max() < 1e-12
    assert (outside(dual, alpha, (1 / alpha, 1 / (1 - alpha))) / SIZE).max() < 1e-12
    assert np.abs(np.sum(projected * dual, axis=1) / SIZE**2).max() < 1e-13
    forward, reverse = (np.asarray(jax.jit(jax.vmap(mode(project)))(POINTS)) for mode in (jax.jacfwd, jax.jacrev))
    np.testing.assert_allclose(forward, reverse, atol=1e-13)
    np.testing.assert_allclose(forward, np.swapaxes(forward, 1, 2), atol=1e-13)
    eigenvalues = np.linalg.eigvalsh(forward)
    assert eigenvalues.min() > -1e-13 and eigenvalues.max() < 1 + 1e-13
    step = 1e-6
    ends = [np.stack([project(PLAIN + way * step * axis) for axis in np.eye(3)], axis=-1) for way in (1, -1)]
    error = np.abs((ends[0] - ends[1]) / (2 * step) - forward[: len(PLAIN)]).max(axis=(1, 2))
    smooth = np.asarray(power_cone_distance(PLAIN, alpha)) > 1e-3
    assert smooth.mean() > 0.95
    assert np.quantile(error[smooth], 0.99) < 1e-7  # the others are strongly curved
