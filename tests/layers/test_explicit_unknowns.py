"""Unknowns that CVXPY adds and that an equality gives are put in, without a loss of digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.foundation.eager import Setting
from bilevel.layers.cvxpy_layer import data_of
from bilevel.layers.explicit_unknowns import explicit, explicit_last
from bilevel.layers.norm_bounds import Canonical, Dims

cp = pytest.importorskip("cvxpy")
SAMPLES, N = 8, 4


def nonnegative_least_squares():
    """min ||A x - b||^2 with x >= 0 and sum(x) <= 1."""
    x, A, b = cp.Variable(N), cp.Parameter((SAMPLES, N)), cp.Parameter(SAMPLES)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0, cp.sum(x) <= 1])
    return problem, [A, b], [x]


def at(seed=0, condition=1.0):
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((SAMPLES, N)))
    right, _ = np.linalg.qr(rng.standard_normal((N, N)))
    A = left @ np.diag(np.geomspace(1, 1 / condition, N)) @ right.T
    return jnp.asarray(A), jnp.asarray(A @ rng.uniform(0, 0.2, N) + 0.1 * rng.standard_normal(SAMPLES))


def by_matrices(A, b):
    """The same, stated without the added unknowns."""
    G, h = jnp.concatenate([-jnp.eye(N), jnp.ones((1, N))]), jnp.zeros(N + 1).at[N].set(1.0)
    return bl.quadratic_program(2 * A.T @ A, -2 * A.T @ b, G=G, h=h).params


@pytest.mark.parametrize("seed", range(4))
def test_solutions_and_derivatives_are_those_of_the_small_program(seed):
    layer = bl.from_cvxpy(*nonnegative_least_squares())
    assert layer.form.explicit == SAMPLES
    solution = layer.solve(*at(seed))
    assert solution.status.name == "converged" and solution.error_grade == "estimate"
    assert_allclose(solution.params[0], by_matrices(*at(seed)), atol=1e-12)
    for argument in (0, 1):
        found = jax.jacobian(lambda *at: layer(*at)[0], argnums=argument)(*at(seed))
        assert_allclose(found, jax.jacobian(by_matrices, argnums=argument)(*at(seed)), atol=1e-10)
        forward = jax.jacfwd(lambda *at: layer(*at)[0], argnums=argument)(*at(seed))
        assert_allclose(forward, found, atol=1e-10)


def test_the_multipliers_are_those_of_the_canonical_program():
    layer = bl.from_cvxpy(*nonnegative_least_squares())
    Q, q, E, e, G, h = data_of(Setting(layer.form), list(at()))
    exact = bl.quadratic_program(Q, q, E, e, G, h, solver=bl.InteriorPoint())
    assert_allclose(layer.solve(*at()).dual.equality_dual, exact.dual.equality_dual, atol=1e-11)
    assert_allclose(layer.solve(*at()).dual.inequality_dual, exact.dual.inequality_dual, atol=1e-11)


@pytest.mark.slow
def test_an_ill_conditioned_matrix_keeps_its_digits():
    """Without active rows x = A^+ b, whose error is about eps cond^2 by A'A alone: 1e-2 at a condition of 1e7."""
    x, A, b = cp.Variable(N), cp.Parameter((SAMPLES, N)), cp.Parameter(SAMPLES)
    layer = bl.from_cvxpy(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= -100]), [A, b], [x])
    matrix, _ = at(1, condition=1e5)
    known = matrix @ jnp.arange(1.0, N + 1)
    assert_allclose(layer(matrix, known)[0], jnp.arange(1.0, N + 1), rtol=1e-9)
    found = jax.jacobian(lambda b: layer(matrix, b)[0])(known)
    exact = np.linalg.pinv(matrix)
    assert_allclose(found, exact, atol=1e-7 * np.abs(exact).max())


@pytest.mark.slow
def test_second_derivatives():
    layer = bl.from_cvxpy(*nonnegative_least_squares())
    A, b = at(2)
    found = jax.hessian(lambda scale: jnp.sum(layer(scale * A, b)[0] ** 2))(1.0)
    assert_allclose(found, jax.hessian(lambda scale: jnp.sum(by_matrices(scale * A, b) ** 2))(1.0), rtol=1e-8)


def canonical(A, zero, moving=()):
    """A program of rows A x + b with so many equalities; the entries of A at ``moving`` depend on the parameter."""
    A = np.asarray(A, float)
    count, n = A.shape
    entries = np.zeros((n * count, 2))  # column by column; of the parameter and of the constants
    entries[:, 1] = A.ravel(order="F")
    for row, column in moving:
        entries[column * count + row] = entries[column * count + row, ::-1]
    rows, b, c = map(scipy.sparse.csr_array, (entries, np.zeros((count, 2)), np.zeros((n, 2))))
    return Canonical(rows, b, c, Dims(zero, count - zero, (), (), 0, ()))


def curved(P, moving=()):
    P = np.asarray(P, float)
    entries = np.zeros((P.size, 2))
    entries[:, 1] = P.ravel(order="F")
    for row, column in moving:
        entries[column * len(P) + row] = entries[column * len(P) + row, ::-1]
    return scipy.sparse.csr_array(entries)


ROWS = [[1.0, -1, 0], [2, 0, 3], [1, 0, 0]]  # x - u, 2 x + 3 v, and x as an inequality


@pytest.mark.parametrize(
    ("program", "curvature", "found"),
    [
        (canonical(ROWS, 2), curved(np.diag([0.0, 1, 2])), {1: 0, 2: 1}),
        (canonical(ROWS, 2), curved(np.diag([0.0, 0, 2])), {2: 1}),  # u has no curvature
        (canonical(ROWS, 1), curved(np.diag([0.0, 1, 2])), {1: 0}),  # v is in an inequality
        (canonical([*ROWS, [0, 1, 0]], 2), curved(np.diag([0.0, 1, 2])), {2: 1}),  # u is in an inequality too
        (canonical(ROWS, 2, [(0, 1)]), curved(np.diag([0.0, 1, 2])), {2: 1}),  # its coefficient may vanish
        (canonical(ROWS, 2), curved(np.diag([0.0, 1, 2]), [(1, 1)]), {2: 1}),  # its curvature may vanish
        (canonical(ROWS, 2), curved([[1.0, 1, 0], [1, 3, 0], [0, 0, 2]]), {2: 1}),  # it is bent together with x
        (canonical([[1.0, 1]], 1), curved(np.eye(2)), {0: 0}),  # one of the two unknowns of an equality
        (canonical(np.zeros((0, 2)), 0), curved(np.eye(2)), {}),
    ],
)
def test_only_unknowns_with_a_constant_coefficient_and_curvature_are_put_in(program, curvature, found):
    assert explicit(program, curvature, [1]) == found
    moved, bent, place, count = explicit_last(program, curvature, [1])
    assert count == len(found)
    n, count = program.c.shape[0], program.b.shape[0]
    assert sorted(place[list(found)]) == list(range(n - len(found), n))
    A = moved.A.toarray().sum(axis=1).reshape((count, n), order="F")
    corner = A[: len(found), n - len(found) :]
    assert np.count_nonzero(corner) == len(found) and np.all(np.diagonal(corner) != 0)
    assert np.all(A[len(found) :, n - len(found) :] == 0)
    P = bent.toarray().sum(axis=1).reshape((n, n), order="F")
    assert_allclose(np.sort(np.diagonal(P)), np.sort(np.diagonal(curvature.toarray().sum(axis=1).reshape(n, n))))


@pytest.mark.slow
def test_the_unknowns_put_in_may_be_asked_for():
    x, u, point = cp.Variable(2), cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(u) + cp.sum_squares(x)), [u + x == point, x >= 0])
    layer = bl.from_cvxpy(problem, [point], [u, x])
    found = layer(jnp.array([1.0, -2.0]))
    assert_allclose(found[0], [0.5, -2.0], atol=1e-12)
    assert_allclose(found[1], [0.5, 0.0], atol=1e-12)
    assert_allclose(jax.jacobian(layer)(jnp.array([1.0, -2.0]))[0], [[0.5, 0], [0, 1]], atol=1e-12)


def test_statuses():
    x, b = cp.Variable(2), cp.Parameter(2)
    infeasible = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 1, cp.sum(x) <= b[0]])
    layer = bl.from_cvxpy(infeasible, [b], [x])
    assert layer.form.explicit == 2
    lanes = jax.vmap(layer.solve)(jnp.array([[0.0, 0.0], [4.0, 0.0], [jnp.nan, 0.0]]))
    assert [bl.Status.of(code).name for code in lanes.status.code] == ["infeasible", "converged", "nonfinite"]
    assert_allclose(lanes.params[0][1], [3.0, 1.0], atol=1e-10)


@pytest.mark.slow
def test_programs_without_a_solution_or_with_many():
    x, b = cp.Variable(2), cp.Parameter(2)
    unbounded = cp.Problem(cp.Minimize(cp.sum_squares(x[0] - b[0]) - x[1]), [x[0] >= 0])
    assert bl.from_cvxpy(unbounded, [b], [x]).solve(jnp.ones(2)).status.name == "unbounded"
    twice = cp.Problem(cp.Minimize(cp.sum_squares(x[0] + x[1] - b[0])), [x >= 0])
    solution = bl.from_cvxpy(twice, [b], [x]).solve(jnp.ones(2))  # any split of b is a solution
    assert solution.status.name == "converged" and solution.error_grade == "residual"


def test_single_precision():
    layer = bl.from_cvxpy(*nonnegative_least_squares())
    A, b = (array.astype(jnp.float32) for array in at(3))
    solution = layer.solve(A, b)
    assert solution.status.ok and solution.params[0].dtype == jnp.float32
    assert_allclose(solution.params[0], by_matrices(*at(3)), atol=1e-5)
