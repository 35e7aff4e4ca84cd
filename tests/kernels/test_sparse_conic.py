"""The interior-point method with sparse factors, on the host, against SciPy and by its certificates."""

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from bilevel.foundation.status import Code
from bilevel.kernels.sparse_conic import Data, solve_sparse

STORE = scipy.sparse.csc_array


def program(P, q, E, e, G, h):
    n = len(q)
    return Data(STORE(np.reshape(P, (n, n))), q, STORE(np.reshape(E, (-1, n))), e, STORE(np.reshape(G, (-1, n))), h)


def drawn(seed, n=12, p=3, m=20, curvature=1.0):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.3)
    E, G = (rng.normal(size=(k, n)) * (rng.random((k, n)) < 0.4) for k in (p, m))
    inside = rng.normal(size=n)
    G = np.concatenate([G, np.eye(n), -np.eye(n)])
    h = G @ inside + rng.random(len(G))
    return program(curvature * half @ half.T, rng.normal(size=n), E, E @ inside, G, h)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("curvature", [1.0, 0.0])
def test_the_conditions_hold_at_the_answer(seed, curvature):
    data = drawn(seed, curvature=curvature)
    found = solve_sparse(data, 1e-12, 100)
    assert found.code in (Code.converged, Code.stalled)
    slack = data.h - data.G @ found.x
    np.testing.assert_allclose(data.P @ found.x + data.q + data.E.T @ found.y + data.G.T @ found.z, 0, atol=1e-8)
    np.testing.assert_allclose(data.E @ found.x, data.e, atol=1e-8)
    np.testing.assert_allclose(np.minimum(slack, found.z), 0, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_linear_programs_against_highs(seed):
    data = drawn(seed, curvature=0.0)
    rows = {"A_ub": data.G, "b_ub": data.h, "A_eq": data.E, "b_eq": data.e}
    expected = scipy.optimize.linprog(data.q, bounds=(None, None), **rows)
    np.testing.assert_allclose(data.q @ solve_sparse(data, 1e-11, 100).x, expected.fun, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_rows_in_other_units_have_the_same_answer(scale):
    data = drawn(1)
    units = np.where(np.arange(data.h.size) % 2, scale, 1.0)
    other = data._replace(G=STORE(scipy.sparse.diags_array(units) @ data.G), h=units * data.h)
    found, expected = solve_sparse(other, 1e-12, 100), solve_sparse(data, 1e-12, 100)
    np.testing.assert_allclose(found.x, expected.x, atol=1e-7)
    np.testing.assert_allclose(found.z * units, expected.z, atol=1e-6)


def test_an_infeasible_program_has_a_certificate():
    data = program(np.eye(2), np.zeros(2), [], np.zeros(0), [[1.0, 0.0], [-1.0, 0.0]], np.array([1.0, -2.0]))
    found = solve_sparse(data, 1e-10, 100)
    assert found.code == Code.infeasible
    assert data.h @ found.z < 0
    np.testing.assert_allclose(data.G.T @ found.z, 0, atol=1e-7)


def test_an_unbounded_program_has_a_ray():
    data = program(np.diag([1.0, 0.0]), np.array([0.0, 1.0]), [], np.zeros(0), [[1.0, 0.0]], np.ones(1))
    found = solve_sparse(data, 1e-10, 100)
    assert found.code == Code.unbounded
    assert data.q @ found.x < 0
    np.testing.assert_allclose(data.P @ found.x, 0, atol=1e-7)


def test_steps_that_run_out_are_said():
    assert solve_sparse(drawn(0), 1e-12, 2).code == Code.max_steps
