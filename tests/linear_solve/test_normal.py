import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import CG, MINRES, Dense, Normal

RNG = np.random.default_rng(0)
LEFT, RIGHT = (np.linalg.qr(RNG.normal(size=(8, 8)))[0] for _ in range(2))


def _matrix(singular_values):
    return LEFT @ np.diag(singular_values) @ RIGHT.T


@pytest.mark.parametrize("inner", [CG(), MINRES(), Dense()])
def test_least_squares_of_least_norm(inner):
    matrix, rhs = _matrix([0.0, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]), jnp.asarray(RNG.normal(size=8))
    solution = Normal(inner)(lambda x: matrix @ x, rhs)
    expected = jnp.linalg.pinv(matrix) @ rhs
    assert solution.status.name == "singular"
    np.testing.assert_allclose(solution.value, expected, rtol=1e-7)
    np.testing.assert_allclose(
        solution.residual, jnp.linalg.norm(matrix @ expected - rhs) / jnp.linalg.norm(rhs), rtol=1e-8
    )


def test_refinement_makes_up_for_the_squared_condition():
    matrix, rhs = _matrix(np.logspace(0, 4, 8)), jnp.asarray(RNG.normal(size=8))
    solution = Normal()(lambda x: matrix @ x, rhs)
    assert solution.status.name == "converged" and float(solution.residual) < 1e-10
    np.testing.assert_allclose(solution.value, jnp.linalg.solve(matrix, rhs), rtol=1e-6)


def test_a_failure_of_the_inner_solver_is_passed_on():
    matrix, rhs = _matrix(np.logspace(0, 4, 8)), jnp.asarray(RNG.normal(size=8))
    assert Normal(CG(max_steps=2), passes=3)(lambda x: matrix @ x, rhs).status.name == "max_steps"
