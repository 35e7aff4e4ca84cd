import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue_entry import Polyhedron, nearest_error

from bilevel.projections import affine_set, halfspace, hyperplane, polyhedron

RANDOM = np.random.default_rng(3)
POINT, ROWS = RANDOM.normal(size=5), RANDOM.normal(size=(2, 5))


def both_modes(function, *args):
    return [jax.jit(mode(function))(*args) for mode in (jax.jacfwd, jax.jacrev)]


@pytest.mark.slow
def test_dependent_rows_change_nothing_and_contradictions_are_nan():
    repeated, totals = np.concatenate([ROWS, ROWS[:1]]), np.array([0.3, -0.2, 0.3])
    project = jax.jit(affine_set)
    expected = project(POINT, ROWS, totals[:2])
    np.testing.assert_allclose(project(POINT, repeated, totals), expected, atol=1e-13)
    contradiction = np.array([0.3, -0.2, 0.4])
    assert np.isnan(project(POINT, repeated, contradiction)).all()
    for jacobian in both_modes(affine_set, POINT, repeated, contradiction):
        assert np.isnan(jacobian).all()


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_nearly_dependent_rows_lose_no_more_digits_than_they_must(gap):
    """Both rows hold, so the projector is that on the complement of their plane, however close they are."""
    first, second = np.eye(5)[:2]
    rows = np.stack([first, first + gap * second])
    expected = np.diag([0.0, 0.0, 1.0, 1.0, 1.0])
    for jacobian in both_modes(affine_set, POINT, rows, np.zeros(2)):
        np.testing.assert_allclose(jacobian, expected, atol=1e-14 / gap)


def test_a_batch_of_points_shares_one_set():
    points, project = RANDOM.normal(size=(3, 5)), jax.jit(affine_set)
    loop = [project(point, ROWS, np.zeros(2)) for point in points]
    np.testing.assert_allclose(project(points, ROWS, np.zeros(2)), loop, atol=1e-14)


def test_hyperplanes_of_trees_and_zero_normals():
    tree, normal = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}, {"a": jnp.array([1.0, 0.0]), "b": 1.0}
    projected = hyperplane(tree, normal, 0.0)
    assert (projected["a"].tolist(), float(projected["b"])) == ([-1.0, 2.0], 1.0)
    assert halfspace(tree, normal, 5.0)["a"].tolist() == [1.0, 2.0]
    assert hyperplane(POINT, np.zeros(5), 0.0).tolist() == POINT.tolist()
    assert np.isnan(hyperplane(POINT, np.zeros(5), 1.0)).all()
    assert halfspace(POINT, np.zeros(5), 1.0).tolist() == POINT.tolist()
    assert np.isnan(halfspace(POINT, np.zeros(5), -1.0)).all()


@pytest.mark.slow
def test_polyhedra_are_exact_where_a_general_solver_stops_at_1e_3():
    project = jax.jit(polyhedron)
    for seed in range(40):
        random = np.random.default_rng(seed)
        A, G, inside, point = random.normal(size=(1, 6)), random.normal(size=(9, 6)), *random.normal(size=(2, 6))
        rows = Polyhedron(A, A @ inside, G, G @ inside + random.uniform(0, 1, size=9))
        assert nearest_error(rows, point, np.asarray(project(point, *rows))) < 1e-12


@pytest.mark.slow
def test_an_infeasible_polyhedron_is_nan_and_so_are_its_derivatives():
    """JAXopt returns a point and the status of success."""
    faces, ends = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([-1.0, -1.0])
    args = np.zeros(2), np.zeros((0, 2)), np.zeros(0), faces, ends
    assert np.isnan(polyhedron(*args)).all()
    for jacobian in both_modes(polyhedron, *args):
        assert np.isnan(jacobian).all()
