import jax
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


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)], ids=["tall", "wide"])
def test_rectangular_systems_are_solved_by_least_squares(shape):
    """The shapes of the unknown are those of init; of many solutions it is the one of least norm."""
    matrix, rhs = RNG.normal(size=shape), RNG.normal(size=shape[0])
    solution = Normal()(lambda x: matrix @ x, rhs, jnp.zeros(shape[1]))
    expected = np.linalg.lstsq(matrix, rhs)[0]
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.value, expected, rtol=1e-8)
    true = np.linalg.norm(matrix @ expected - rhs) / np.linalg.norm(rhs)
    np.testing.assert_allclose(solution.residual, true, rtol=1e-8, atol=1e-9)


def test_a_rectangular_system_of_two_leaves_in_single_precision():
    matrix, rhs = RNG.normal(size=(9, 5)).astype(np.float32), RNG.normal(size=9).astype(np.float32)
    like = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros((1, 3), jnp.float32)}
    apply = lambda x: [matrix[:, :2] @ x["a"] + matrix[:, 2:] @ x["b"][0]]
    solve = jax.jit(jax.vmap(lambda rhs: Normal(CG(tol=1e-6), tol=1e-6)(apply, [rhs], like).value))
    found = solve(jnp.stack([rhs, 2e-20 * rhs]))
    expected = np.linalg.lstsq(matrix, rhs)[0]
    np.testing.assert_allclose(jnp.concatenate([found["a"][0], found["b"][0, 0]]), expected, rtol=1e-3)
    np.testing.assert_allclose(jnp.concatenate([found["a"][1], found["b"][1, 0]]), 2e-20 * expected, rtol=1e-3)
    assert found["b"].dtype == jnp.float32


def test_a_rectangular_system_without_the_shapes_of_its_unknown_is_refused():
    with pytest.raises(ValueError, match="rectangular system give init="):
        Normal()(lambda x: RNG.normal(size=(12, 5)) @ x, RNG.normal(size=12))
