import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import CG, LBFGSPairs, Operator


def _matrix(eigenvalues, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return basis @ np.diag(eigenvalues) @ basis.T


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_takes_as_many_steps_as_there_are_eigenvalues(count):
    matrix = _matrix(np.arange(20) % count + 1.0)
    solution = CG()(lambda x: matrix @ x, jnp.arange(20.0) - 7)
    assert solution.status.name == "converged" and int(solution.products) == count + 1
    np.testing.assert_allclose(matrix @ solution.value, jnp.arange(20.0) - 7, atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_declared_sign_that_is_wrong_is_found_at_once(sign):
    matrix = sign * _matrix([1.0, 2.0, 3.0])
    operator = Operator(lambda x: matrix @ x, symmetric=True, definite=True, sign=-sign)
    solution = CG()(operator, jnp.ones(3))
    assert solution.status.name == "indefinite" and int(solution.products) == 2 and not solution.value.any()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_inverse_as_preconditioner_takes_one_step(sign):
    matrix = sign * _matrix(np.logspace(0, 4, 12))
    inverse = jnp.linalg.inv(matrix)
    solution = CG()(lambda x: matrix @ x, jnp.ones(12), preconditioner=lambda r: inverse @ r)
    assert solution.status.name == "converged" and int(solution.products) <= 2 * 2


def test_a_preconditioner_of_both_signs_is_indefinite():
    matrix, signs = _matrix([1.0, 2.0, 4.0, 9.0]), jnp.array([1.0, -1.0, 1.0, -1.0])
    solution = CG()(lambda x: matrix @ x, jnp.array([3.0, 1.0, 2.0, -0.5]), preconditioner=lambda r: signs * r)
    assert solution.status.name in ("indefinite", "converged")
    if solution.status.name == "converged":  # by restarts, on a true residual
        np.testing.assert_allclose(matrix @ solution.value, [3.0, 1.0, 2.0, -0.5], rtol=1e-8)


def test_singular_inconsistent():
    solution = CG()(lambda x: jnp.array([0.0, 1.0, 2.0]) * x, jnp.array([1.0, 0.0, 0.0]))
    assert solution.status.name == "singular"


def test_small_operators_in_float32():
    matrix = jnp.asarray(1e-12 * _matrix([1.0, 2.0, 3.0, 10.0]), "float32")
    rhs = jnp.asarray([1.0, -2.0, 0.5, 3.0], "float32") * 1e-25
    solution = CG()(lambda x: matrix @ x, rhs)
    expected = np.linalg.solve(np.asarray(matrix, np.float64), np.asarray(rhs, np.float64))
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.value, expected, rtol=1e-4)


def test_a_small_residual_is_reached_again_after_the_recurrence_drifted():
    matrix = _matrix(np.logspace(0, 7, 60))
    rhs = matrix @ jnp.ones(60)
    solution = CG(tol=1e-13, max_steps=5000)(lambda x: matrix @ x, rhs)
    assert bool(solution.status.ok)
    true = jnp.linalg.norm(matrix @ solution.value - rhs) / jnp.linalg.norm(rhs)
    assert float(true) < 1e-12


def test_the_loop_holds_no_ravelled_vector():
    def solve(rhs):
        return CG()(lambda x: jax.tree.map(lambda leaf: 2.0 * leaf, x), rhs).value

    jaxpr = str(jax.make_jaxpr(solve)({"a": jnp.ones((2, 3)), "b": jnp.ones(5)}))
    assert "concatenate" not in jaxpr and "reshape" not in jaxpr and "[11]" not in jaxpr


@pytest.mark.parametrize("memory", [8, 40])
def test_directions_of_a_solve_precondition_the_next(memory):
    """Spread over the solve, of length one, with their images; all of them leave little to do."""
    diagonal = jnp.logspace(0, 3, 30)
    operator = Operator(lambda x: diagonal * x, symmetric=True, definite=True)
    first = CG(tol=1e-10, memory=memory)(operator, jnp.ones(30))
    assert isinstance(first.inverse, LBFGSPairs)
    pairs, plain = first.inverse, CG(tol=1e-10)(operator, jnp.arange(1.0, 31.0))
    np.testing.assert_allclose(pairs.images, diagonal * pairs.steps, atol=1e-11)
    np.testing.assert_allclose(jnp.linalg.norm(pairs.steps, axis=1), 1.0, rtol=1e-12)
    second = CG(tol=1e-10, preconditioner=pairs)(operator, jnp.arange(1.0, 31.0))
    np.testing.assert_allclose(second.value, jnp.arange(1.0, 31.0) / diagonal, rtol=1e-7)
    assert int(second.products) < {8: 0.9, 40: 0.3}[memory] * int(plain.products)


def test_a_short_solve_pushes_out_as_many_directions_as_it_took():
    old, new = LBFGSPairs(jnp.eye(3), 2 * jnp.eye(3)), LBFGSPairs.empty(jnp.ones(3), 3)
    new = LBFGSPairs(new.steps.at[2, 0].set(5.0), new.images.at[2, 0].set(7.0))
    joined = old.followed_by(new)
    np.testing.assert_array_equal(joined.steps, [[0, 1, 0], [0, 0, 1], [5, 0, 0]])
    np.testing.assert_array_equal(joined.images, [[0, 2, 0], [0, 0, 2], [7, 0, 0]])
    assert jnp.all(old.followed_by(LBFGSPairs.empty(jnp.ones(3), 3)).steps == old.steps)
