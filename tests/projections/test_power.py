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
SIZE = np.abs(POINTS).max(axis=1).clip(1e-100)


def outside(points, alpha, scales=(1.0, 1.0)):
    """At least the distance from {(scales (x, y), z) in the cone}: the least change of one coordinate, a negative one
    set to zero first."""
    below = np.maximum(0, -points[:, :2].min(axis=1))
    x, y = (np.maximum(points[:, k] * scales[k], 0) for k in (0, 1))
    z = np.abs(points[:, 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = (
            (z / y ** (1 - alpha)) ** (1 / alpha),
            (z / x**alpha) ** (1 / (1 - alpha)),
            z - x**alpha * y ** (1 - alpha),
        )
    changes = np.maximum(np.stack([wanted[0] - x, wanted[1] - y, wanted[2]]), 0)
    return below + np.where(z == 0, 0, np.nan_to_num(changes, nan=np.inf).min(axis=0))


@pytest.mark.sample(1)
@pytest.mark.parametrize("alpha", [0.15, 0.5, 0.999])
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


@pytest.mark.parametrize("alpha", [0.15, 0.5, 0.9])
def test_small_coordinates_have_their_own_digits(alpha):
    """On the curved boundary x^alpha y^(1 - alpha) = |z|, relative to each of them, however small it is."""
    projected = np.asarray(power_cone(SCALED, alpha))
    x, y, z = np.abs(projected).T
    size = np.abs(SCALED).max(axis=1)
    moved = np.any(projected != SCALED, axis=1) & (np.minimum(np.minimum(x, y), z) > 1e-15 * size)
    assert moved.sum() > 50
    x, y, z = x[moved], y[moved], z[moved]
    np.testing.assert_allclose(alpha * np.log(x / z) + (1 - alpha) * np.log(y / z), 0, atol=1e-12)
