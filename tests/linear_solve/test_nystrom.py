import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import Nystrom, Operator
from bilevel.linear_solve.nystrom import approximate

RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(30, 30)))[0]
RHS = np.asarray(RNG.normal(size=30))


def _matrix(eigenvalues):
    return BASIS @ np.diag(eigenvalues) @ BASIS.T


LOW_RANK = _matrix(np.r_[np.linspace(1, 9, 6), np.zeros(24)])


@pytest.mark.sample(1)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rank", [6, 10, 100])
def test_exact_on_a_matrix_of_low_rank(rank, sign):
    solution = Nystrom(rank=rank, rho=0.1)(Operator(lambda x: sign * LOW_RANK @ x, sign=sign), RHS)
    assert solution.status.name == "truncated" and int(solution.products) == min(rank, 30) + 1
    expected = sign * jnp.linalg.solve(LOW_RANK + 0.1 * jnp.eye(30), RHS)
    np.testing.assert_allclose(solution.value, expected, rtol=1e-8)
    true = jnp.linalg.norm(RHS - sign * LOW_RANK @ expected) / jnp.linalg.norm(RHS)
    np.testing.assert_allclose(solution.residual, true, rtol=1e-6)


def test_the_approximation_is_below_the_matrix():
    matrix = _matrix(np.logspace(2, -4, 30))
    vectors, values, definite = approximate(Operator(lambda x: matrix @ x), RHS, 10, 0)
    gap = matrix - vectors @ jnp.diag(values) @ vectors.T
    assert bool(definite) and jnp.linalg.eigvalsh(gap).min() > -1e-10
    assert jnp.linalg.norm(gap, 2) < 10 * 10 ** (2 - 6 * 10 / 29)  # near the eigenvalue that follows


def test_a_matrix_of_both_signs_is_indefinite_and_its_solution_nan():
    solution = Nystrom(rank=30)(Operator(lambda x: _matrix(np.linspace(-1, 1, 30)) @ x), RHS)
    assert solution.status.name == "indefinite" and jnp.isnan(solution.value).all()


def test_nan_products_are_nonfinite():
    assert Nystrom()(lambda x: jnp.nan * x, RHS).status.name == "nonfinite"


def test_the_zero_matrix_and_the_zero_right_hand_side():
    np.testing.assert_allclose(Nystrom(rho=0.5)(lambda x: 0 * x, RHS).value, RHS / 0.5, rtol=1e-12)
    zero = Nystrom()(lambda x: LOW_RANK @ x, 0 * RHS)
    assert not zero.value.any() and float(zero.residual) == 0
