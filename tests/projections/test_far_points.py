"""The projection of a point far away is in the set, although the rounding of the point is wider than the set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import projections

WEIGHTS = np.array([1.0, -2.0, 0.5, 1.5, -0.3])
ROWS = np.stack([np.ones(5), WEIGHTS])
SETS = {  # the projection, and by how much a point misses the set, relative to what is summed
    "simplex": (projections.simplex, lambda p: p.sum() - 1),
    "capped_simplex": (lambda x: projections.capped_simplex(x, 1.0, 1.4), lambda p: p.sum() - 1.4),
    "box_section": (lambda x: projections.box_section(x, -1.0, 1.0, WEIGHTS, 0.3), lambda p: WEIGHTS @ p - 0.3),
    "l1_ball": (projections.l1_ball, lambda p: np.abs(p).sum() - 1),
    "hyperplane": (lambda x: projections.hyperplane(x, WEIGHTS, 0.3), lambda p: WEIGHTS @ p - 0.3),
    "halfspace": (lambda x: projections.halfspace(x, WEIGHTS, 0.3), lambda p: max(WEIGHTS @ p - 0.3, 0)),
    "affine_set": (lambda x: projections.affine_set(x, ROWS, np.ones(2)), lambda p: np.abs(ROWS @ p - 1).max()),
}


@pytest.mark.parametrize("name", SETS)
def test_far_points_are_projected_into_the_set(name):
    project, excess = SETS[name]
    project = jax.jit(project)
    for size in (1e6, 1e12):
        for direction in (np.sin(np.arange(5.0)), ROWS[0], ROWS[1]):
            projected = np.asarray(project(size * direction + np.cos(np.arange(5.0))))
            assert abs(excess(projected)) <= 1e-14 * (1 + np.abs(projected).sum()), (size, direction)


@pytest.mark.parametrize("size", [1e6, 1e12])
def test_the_derivative_far_away_is_that_of_the_face(size):
    point = size * jnp.ones(4) + jnp.array([0.3, -0.2, 0.1, 0.5])
    np.testing.assert_allclose(
        jax.jacobian(projections.capped_simplex, argnums=2)(point, 1.0, 2.0), np.full(4, 0.25), rtol=1e-12
    )


def test_a_point_whose_rounding_hides_the_box_is_nan():
    point = 1e18 * jnp.array([1.0, 1.0, 1.0])
    assert np.isnan(projections.capped_simplex(point, 1.0, 1.4)).all()
