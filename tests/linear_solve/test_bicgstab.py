import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import BiCGStab


@pytest.mark.parametrize("factor", [2.0, -3.0, 1e-8])
def test_a_multiple_of_the_identity(factor):
    solution = BiCGStab()(lambda x: factor * x, jnp.arange(4.0))
    assert solution.status.name == "converged" and int(solution.products) == 3
    np.testing.assert_allclose(solution.value, jnp.arange(4.0) / factor, rtol=1e-12)


def test_a_skew_symmetric_matrix_breaks_it_down_and_says_so():
    solution = BiCGStab()(lambda x: jnp.array([x[1], -x[0]]), jnp.array([1.0, 2.0]))
    assert solution.status.name == "indefinite" and jnp.isfinite(solution.value).all()


def test_preconditioned():
    scales = jnp.logspace(0, 6, 40)
    matrix = jnp.diag(scales) + 0.1 * jnp.diag(scales[1:], 1)
    plain, helped = (
        BiCGStab()(lambda x: matrix @ x, jnp.ones(40), preconditioner=preconditioner)
        for preconditioner in (None, lambda r: r / scales)
    )
    assert helped.status.name == "converged" and int(helped.products) < int(plain.products) / 4
    np.testing.assert_allclose(helped.value, jnp.linalg.solve(matrix, jnp.ones(40)), rtol=1e-6)
