import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from bilevel.linear_solve import GMRES

RNG = np.random.default_rng(0)
MATRIX = np.asarray(RNG.normal(size=(30, 30)) + 8 * np.eye(30))
RHS = np.asarray(RNG.normal(size=30))


@pytest.mark.sample(2)
@pytest.mark.parametrize("restart", [1, 3, 10, 30, 100])
def test_any_restart_solves_a_system_with_a_definite_symmetric_part(restart):
    solution = GMRES(restart=restart)(lambda x: MATRIX @ x, RHS)
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.value, jnp.linalg.solve(MATRIX, RHS), rtol=1e-7)


def test_lineax_is_a_witness():
    operator = lx.MatrixLinearOperator(jnp.asarray(MATRIX))
    witness = lx.linear_solve(operator, RHS, lx.GMRES(rtol=1e-12, atol=1e-12, restart=30)).value
    np.testing.assert_allclose(GMRES(tol=1e-12)(lambda x: MATRIX @ x, RHS).value, witness, rtol=1e-8)


@pytest.mark.parametrize(("restart", "name"), [(5, "max_steps"), (6, "converged")])
def test_a_cyclic_shift_needs_a_full_cycle(restart, name):
    solution = GMRES(restart=restart)(lambda x: jnp.roll(x, 1), jnp.zeros(6).at[0].set(1.0))
    assert solution.status.name == name
    assert int(solution.products) == restart + 1  # a restart that gains nothing is not repeated


@pytest.mark.parametrize("rhs", [[1.0, 0.0], [0.0, 1.0]])
def test_a_nilpotent_matrix_breaks_down_safely(rhs):
    matrix, rhs = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array(rhs)
    solution = GMRES()(lambda x: matrix @ x, rhs)  # b = e_1 is in the range, but not in A times the Krylov space
    assert solution.status.name == "singular" and jnp.isfinite(solution.value).all()


def test_the_inverse_as_preconditioner_takes_one_step():
    inverse = jnp.linalg.inv(MATRIX)
    solution = GMRES()(lambda x: MATRIX @ x, RHS, preconditioner=lambda r: inverse @ r)
    assert solution.status.name == "converged" and int(solution.products) == 2
