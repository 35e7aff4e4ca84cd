import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import Neumann, Operator

MATRIX = np.array([[1.0, 0.3, 0.0], [0.1, 0.8, 0.2], [0.0, 0.4, 1.1]])
RHS = np.array([1.0, -2.0, 0.5])


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("terms", [1, 2, 7])
def test_equals_the_series(terms, alpha):
    series = sum(np.linalg.matrix_power(np.eye(3) - alpha * np.asarray(MATRIX), k) @ RHS for k in range(terms))
    solution = Neumann(terms=terms, alpha=alpha)(lambda x: MATRIX @ x, RHS)
    assert solution.status.name == "truncated" and int(solution.products) == terms
    np.testing.assert_allclose(solution.value, alpha * series, rtol=1e-12)
    true = jnp.linalg.norm(RHS - MATRIX @ solution.value) / jnp.linalg.norm(RHS)
    np.testing.assert_allclose(solution.residual, true, rtol=1e-10)


def test_a_negative_definite_system():
    operator = Operator(lambda x: -MATRIX @ x, definite=True, sign=-1)
    np.testing.assert_allclose(
        Neumann(terms=9)(operator, RHS).value, -Neumann(terms=9)(lambda x: MATRIX @ x, RHS).value, rtol=1e-12
    )


@pytest.mark.parametrize("terms", [5, 3000])
def test_terms_that_grow_are_diverged(terms):
    assert Neumann(terms=terms, alpha=3.0)(lambda x: MATRIX @ x, RHS).status.name == "diverged"


def test_nan_products_are_nonfinite():
    assert Neumann()(lambda x: jnp.nan * x, RHS).status.name == "nonfinite"


def test_continues_from_a_start():
    once = Neumann(terms=10, alpha=0.5)(lambda x: MATRIX @ x, RHS)
    first = Neumann(terms=4, alpha=0.5)(lambda x: MATRIX @ x, RHS)
    second = Neumann(terms=6, alpha=0.5)(lambda x: MATRIX @ x, RHS, init=first.value)
    np.testing.assert_allclose(second.value, once.value, rtol=1e-12)
    assert int(second.products) == 7


def test_preconditioned():
    inverse = jnp.linalg.inv(MATRIX)
    solution = Neumann(terms=1)(lambda x: MATRIX @ x, RHS, preconditioner=lambda r: inverse @ r)
    np.testing.assert_allclose(solution.value, inverse @ RHS, rtol=1e-12)
