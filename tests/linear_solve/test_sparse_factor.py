"""Sparse factors of quasidefinite matrices."""

import numpy as np
import pytest
import scipy.sparse

from bilevel.linear_solve.sparse_factor import is_positive_semidefinite, least_pivot, refined_inverse, saddle

RNG = np.random.default_rng(0)


def system(n, k, rank=None, corner=0.0):
    half = RNG.normal(size=(n, rank or n)) * (RNG.random((n, rank or n)) < 0.5)
    C = RNG.normal(size=(k, n)) * (RNG.random((k, n)) < 0.6)
    matrices = (scipy.sparse.csc_array(half @ half.T), scipy.sparse.csc_array(C))
    return saddle(*matrices, np.full(k, corner))


@pytest.mark.parametrize(("rank", "corner"), [(9, 0.0), (9, 1e-9), (9, 1e9), (5, 0.0), (5, 1e-9)])
def test_it_is_the_inverse(rank, corner):
    matrix = system(9, 4, rank, corner)
    x = RNG.normal(size=(13, 3))
    np.testing.assert_allclose(refined_inverse(matrix, 9)(matrix @ x), x, rtol=1e-7, atol=1e-7)


def test_a_singular_system_with_a_solution_has_one():
    matrix = scipy.sparse.csc_array(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    found = refined_inverse(matrix, 1)(np.array([3.0, 1.0, 1.0]))
    np.testing.assert_allclose(matrix @ found, [3.0, 1.0, 1.0], atol=1e-9)
    np.testing.assert_allclose(found, [1.0, 1.0, 1.0], atol=1e-6)  # the multipliers of least norm


def test_a_system_without_a_solution_keeps_a_residual():
    matrix = scipy.sparse.csc_array(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    rhs = np.array([0.0, 1.0, 2.0])
    assert not np.linalg.norm(matrix @ refined_inverse(matrix, 1)(rhs) - rhs) < 0.5


def test_pivots_tell_singular_matrices():
    matrix = system(6, 3)
    assert least_pivot(matrix) > 1e-6
    assert least_pivot(system(6, 3, rank=2)) < 1e-10
    assert least_pivot(scipy.sparse.csc_array((2, 2))) == 0


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_convexity_in_all_units(scale):
    units = np.diag([1.0, scale, 1.0])
    half = RNG.normal(size=(3, 2))
    convex = units @ (half @ half.T) @ units
    bent = units @ (half @ half.T - 0.01 * np.outer(np.cross(*half.T), np.cross(*half.T))) @ units
    assert is_positive_semidefinite(scipy.sparse.csc_array(convex))
    assert not is_positive_semidefinite(scipy.sparse.csc_array(bent))
    assert is_positive_semidefinite(scipy.sparse.csc_array((3, 3)))
