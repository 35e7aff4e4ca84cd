"""Quadratic programs whose curvature is singular, but not on the null space of their equalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.solvers.programs.stated_by_arrays import ConeProgram, pivoting_program

NOT_NEEDED = bl.InteriorPoint(max_steps=1)  # solves none of these programs


def least_squares(seed, samples=9, n=5, scale=1.0):
    """min ||t||^2 + q'x with t = X x - y, x >= 0: the data of the program over (t, x), and those over x alone."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(samples, n)) * scale, rng.normal(size=samples)
    q = 0.3 * rng.normal(size=n)
    Q = np.zeros((samples + n, samples + n))
    Q[:samples, :samples] = 2 * np.eye(samples)
    A = np.hstack([-np.eye(samples), X])
    G = np.hstack([np.zeros((n, samples)), -np.eye(n)])
    stated = Q, np.concatenate([np.zeros(samples), q]), A, y, G, np.zeros(n)
    reduced = 2 * X.T @ X, q - 2 * X.T @ y, np.zeros((0, n)), np.zeros(0), -np.eye(n), np.zeros(n)
    return [jnp.asarray(a) for a in stated], [jnp.asarray(a) for a in reduced]


@pytest.mark.parametrize("seed", range(6))
def test_exchanges_solve_it_without_another_solver(seed):
    (Q, q, A, b, G, h), reduced = least_squares(seed, scale=10.0 ** (seed - 2))
    cone = bl.cones.Product(bl.cones.Zero(9), bl.cones.NonNegative(5))
    program = ConeProgram(Q, q, jnp.concatenate([A, G]), jnp.concatenate([b, h]), cone)
    found = pivoting_program(program, NOT_NEEDED)
    assert int(found.code) == bl.Code.converged
    assert_allclose(found.x[9:], bl.quadratic_program(*reduced).params, rtol=1e-9, atol=1e-12)
    assert_allclose(Q @ found.x + q + program.A.T @ found.y, 0 * q, atol=1e-11 * (1 + np.abs(found.y).max()))


@pytest.mark.parametrize("units", [1.0, 1e6, 1e-6])
def test_the_derivative_is_that_of_the_program_without_the_equalities(units):
    """Also with equalities in other units."""
    by_rows, without, y = both_ways(units)
    assert_allclose(jax.jacrev(by_rows)(y), jax.jacrev(without)(y), atol=1e-9)
    assert_allclose(jax.jacfwd(by_rows)(y), jax.jacfwd(without)(y), atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("units", [1.0, 1e6, 1e-6])
def test_the_second_derivative_is_that_of_the_program_without_the_equalities(units):
    by_rows, without, y = both_ways(units)
    assert_allclose(jax.hessian(lambda y: by_rows(y**2)[0])(y), jax.hessian(lambda y: without(y**2)[0])(y), atol=1e-8)


def both_ways(units):
    """The solution as a function of the targets, from the program with its equalities in units of their own and from
    the one without, and the targets."""
    stated, reduced = least_squares(3)
    rows = units ** jnp.linspace(-1, 1, 9)

    def by_rows(y):
        Q, q, A, _, G, h = stated
        return bl.quadratic_program(Q, q, rows[:, None] * A, rows * y, G, h).params[9:]

    def without(y):
        Q, _, A, b, G, h = reduced
        X = stated[2][:, 9:]
        return bl.quadratic_program(Q, stated[1][9:] - 2 * X.T @ y, A, b, G, h).params

    return by_rows, without, stated[3]


@pytest.mark.slow
def test_a_curvature_that_is_negative_off_the_feasible_set_is_refused():
    """min x0^2 - x1^2 with x1 = h is convex where it is feasible, but the documented condition is a semidefinite Q."""
    Q = jnp.diag(jnp.array([2.0, -2.0]))
    solution = bl.quadratic_program(Q, jnp.zeros(2), jnp.array([[0.0, 1.0]]), jnp.ones(1))
    assert not solution.status.ok
    assert jnp.all(jnp.isnan(solution.params)) or solution.status.name == "indefinite"


def test_dependent_equalities_beside_a_singular_curvature():
    """min (x0 - 1)^2 with x1 + x2 = 1 twice, x1 = 0.3: (1, 0.3, 0.7)."""
    A = jnp.array([[0.0, 1.0, 1.0], [0.0, 2.0, 2.0], [0.0, 1.0, 0.0]])
    solve = lambda b: bl.quadratic_program(jnp.diag(jnp.array([2.0, 0.0, 0.0])), jnp.array([-2.0, 0, 0]), A, b)
    solution = solve(jnp.array([1.0, 2.0, 0.3]))
    assert solution.status.name == "converged"
    assert_allclose(solution.params, [1.0, 0.3, 0.7], atol=1e-9)
