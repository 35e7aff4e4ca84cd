import jax
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


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rank", [6, 10, 100])
def test_exact_on_a_matrix_of_low_rank(rank, sign):
    """What is outside the range is taken for (1 + rho) times the smallest eigenvalue seen, which is 1 here."""
    solution = Nystrom(rank=rank, rho=0.1)(Operator(lambda x: sign * LOW_RANK @ x, sign=sign), RHS)
    assert solution.status.name == "truncated" and int(solution.products) == min(rank, 30) + 1
    inverse = jnp.linalg.pinv(LOW_RANK, rtol=1e-10)
    expected = sign * (inverse @ RHS + (RHS - LOW_RANK @ inverse @ RHS) / 1.1)
    np.testing.assert_allclose(solution.value, expected, rtol=1e-8, atol=1e-12)
    true = jnp.linalg.norm(RHS - sign * LOW_RANK @ expected) / jnp.linalg.norm(RHS)
    np.testing.assert_allclose(solution.residual, true, rtol=1e-6)


@pytest.mark.parametrize("rho", [1e-2, 1.0])
@pytest.mark.parametrize("smallest", [1e-3, 1e-6])
def test_full_rank_is_the_inverse(smallest, rho):
    matrix = _matrix(np.geomspace(1.0, smallest, 30))
    solution = Nystrom(rank=30, rho=rho)(Operator(lambda x: matrix @ x), RHS)
    exact = jnp.linalg.solve(matrix, RHS)
    assert jnp.linalg.norm(solution.value - exact) <= 1e-6 * jnp.linalg.norm(exact)


def test_full_rank_on_two_leaves_in_single_precision():
    scales = {"a": jnp.float32([1.0, 0.1]), "b": jnp.float32([1e-3])}
    matvec = lambda x: jax.tree.map(jnp.multiply, scales, x)
    exact = {"a": jnp.float32([3.0, -2.0]), "b": jnp.float32([5.0])}
    solution = jax.jit(lambda rhs: Nystrom()(matvec, rhs))(matvec(exact))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3), solution.value, exact)
    assert solution.value["a"].dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_rho_has_no_units(scale):
    matrix = _matrix(np.geomspace(1.0, 1e-3, 30))
    value = Nystrom(rank=10)(Operator(lambda x: matrix @ x), RHS).value
    scaled = Nystrom(rank=10)(Operator(lambda x: scale * matrix @ x), RHS).value
    np.testing.assert_allclose(scale * scaled, value, rtol=1e-8)


def test_a_floor_below_the_low_rank_is_found():
    """A regulariser below a few large eigenvalues: the rest is scaled by the floor, which is the smallest seen."""
    matrix = LOW_RANK + 1e-4 * np.eye(30)
    solution = Nystrom(rank=10)(Operator(lambda x: matrix @ x), RHS)
    exact = jnp.linalg.solve(matrix, RHS)
    assert jnp.linalg.norm(solution.value - exact) <= 1.1e-2 * jnp.linalg.norm(exact)


def test_the_approximation_is_below_the_matrix():
    matrix = _matrix(np.logspace(2, -4, 30))
    vectors, values, definite = approximate(Operator(lambda x: matrix @ x), RHS, 10, 0)
    gap = matrix - vectors @ jnp.diag(values) @ vectors.T
    assert bool(definite) and jnp.linalg.eigvalsh(gap).min() > -1e-10
    assert jnp.linalg.norm(gap, 2) < 10 * 10 ** (2 - 6 * 10 / 29)  # near the eigenvalue that follows


def test_a_matrix_of_both_signs_is_indefinite_and_its_solution_nan():
    solution = Nystrom(rank=30)(Operator(lambda x: _matrix(np.linspace(-1, 1, 30)) @ x), RHS)
    assert solution.status.name == "indefinite" and jnp.isnan(solution.value).all()


@pytest.mark.slow
def test_nan_products_are_nonfinite():
    assert Nystrom()(lambda x: jnp.nan * x, RHS).status.name == "nonfinite"


def test_the_zero_matrix_and_the_zero_right_hand_side():
    assert Nystrom()(lambda x: 0 * x, RHS).status.name == "singular"
    zero = Nystrom()(lambda x: LOW_RANK @ x, 0 * RHS)
    assert not zero.value.any() and float(zero.residual) == 0
