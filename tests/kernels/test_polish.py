"""Newton steps on the conditions of a quadratic program, also where these depend on each other."""

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.activity import units_of
from bilevel.kernels.polish import is_convex, polished, settled
from bilevel.kernels.saddle import schur_of


def program(case):
    rng = np.random.default_rng(0)
    root, A, G = rng.normal(size=(4, 4)), rng.normal(size=(2, 4)), rng.normal(size=(3, 4))
    Q, x, y, z = root @ root.T, rng.normal(size=4), rng.normal(size=2), np.array([1.0, 0.5, 0.0])
    if case == "dependent rows":
        A[1] = A[0]
    if case == "flat":
        Q = np.diag([1.0, 0, 0, 0])
    if case == "sizes apart":
        A, G, Q = A * 1e6, G * 1e-6, Q * 1e3
    q = -(Q @ x + A.T @ y + G.T @ z)
    slack = np.array([0.0, 0.0, 1.0])
    return tuple(map(jnp.asarray, (Q, q, A, A @ x, G, G @ x + slack))), (x, y, z)


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", ["regular", "dependent rows", "flat", "sizes apart"])
def test_a_point_nearby_is_moved_onto_the_solution_set(case):
    arrays, solution = program(case)
    Q, q, A, b, G, h = arrays
    x, y, z = (jnp.asarray(part) * (1 + 1e-6) for part in solution)

    def residuals(x, y, z):
        parts = (Q @ x + q + A.T @ y + G.T @ z, A @ x - b, jnp.minimum(z, h - G @ x))
        sizes = (jnp.linalg.norm(q), jnp.linalg.norm(b), jnp.linalg.norm(h))
        return [float(jnp.linalg.norm(part) / size) for part, size in zip(parts, sizes, strict=True)]

    assert max(residuals(x, y, z)) > 1e-7
    x, y, z = polished(arrays, (x, y, z))
    assert max(residuals(x, y, z)) < 1e-13
    np.testing.assert_allclose(x, solution[0], rtol=0, atol=1e-5)


def test_a_row_that_was_missed_is_taken_up_and_one_too_many_let_go():
    """From the nearest corner of another face; Newton steps on the rows that were guessed first stay there."""
    arrays = (jnp.eye(2), -jnp.array([2.0, 0.5]), jnp.zeros((0, 2)), jnp.zeros(0), jnp.eye(2), jnp.ones(2))
    wrong = jnp.array([2.0, 1.0]), jnp.zeros(0), jnp.array([0.0, -0.5])
    x, _, z = polished(arrays, wrong)
    np.testing.assert_allclose(x, [1.0, 0.5], rtol=0, atol=1e-14)
    np.testing.assert_allclose(z, [1.0, 0.0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("case", ["regular", "dependent rows", "flat", "sizes apart"])
def test_settled_points_are_solutions_on_the_rows_that_hold_them(case):
    """With good factors and where the polish takes over: the point, the active rows, and factors of just these rows."""
    arrays, solution = program(case)
    Q, q, A, b, G, _ = arrays
    near_x, near_y, near_z = (jnp.asarray(part) * (1 + 1e-6) for part in solution)
    (x, y, z), reading, by = settled(arrays, (near_x, near_y, near_z), units_of(Q, jnp.concatenate([A, G])))
    assert jnp.linalg.norm(Q @ x + q + A.T @ y + G.T @ z) <= 1e-13 * jnp.linalg.norm(q)
    assert jnp.linalg.norm(A @ x - b) <= 1e-13 * jnp.linalg.norm(b)
    assert reading.active.tolist() == [True, True, False]
    assert z[2] == 0
    assert by.held.tolist() == [True, True, True, True, False]
    assert bool(by.lost) == (case in ("dependent rows", "flat"))


def test_factors_of_the_wrong_rows_are_replaced():
    """The point that they give satisfies the conditions on their rows, and violates a row beside them."""
    arrays = (jnp.eye(2), -jnp.array([2.0, 0.5]), jnp.zeros((0, 2)), jnp.zeros(0), jnp.eye(2), jnp.ones(2))
    wrong = schur_of(jnp.eye(2), jnp.array([[0.0, 0], [0, 1]]))
    start = jnp.array([2.0, 1.0]), jnp.zeros(0), jnp.array([0.0, -0.5])
    (x, _, z), reading, by = settled(arrays, start, units_of(arrays[0], arrays[4]), wrong)
    np.testing.assert_allclose(jnp.stack([x, z]), [[1.0, 0.5], [1.0, 0.0]], rtol=0, atol=1e-14)
    assert reading.active.tolist() == by.held.tolist() == [True, False]


def test_a_hessian_whose_factors_are_lost_is_looked_at():
    none = jnp.zeros((0, 2))
    for diagonal, convex in (((1.0, 1.0), True), ((1.0, 0.0), True), ((1.0, -1.0), False)):
        hessian = jnp.diag(jnp.array(diagonal))
        by = schur_of(hessian, none)
        assert bool(by.lost) != (diagonal == (1.0, 1.0))
        assert bool(is_convex(hessian, by)) is convex
