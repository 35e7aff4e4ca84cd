import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import MINRES


def _matrix(eigenvalues):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(len(eigenvalues),) * 2))[0]
    return basis @ np.diag(eigenvalues) @ basis.T


@pytest.mark.slow
def test_the_residual_never_grows_with_the_steps():
    matrix, rhs = _matrix([-5.0, -2.0, -1.0, 1.0, 3.0, 4.0, 8.0, 9.0]), jnp.arange(8.0) - 3
    residuals = [float(MINRES(max_steps=steps)(lambda x: matrix @ x, rhs).residual) for steps in range(1, 9)]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(residuals))
    assert residuals[-1] < 1e-12


def test_equals_least_squares_over_the_krylov_space():
    matrix, rhs = _matrix([-5.0, -2.0, -1.0, 1.0, 3.0, 4.0, 8.0, 9.0]), jnp.arange(8.0) - 3
    krylov = np.stack([np.linalg.matrix_power(matrix, power) @ rhs for power in range(4)], axis=1)
    images = np.asarray(matrix) @ krylov
    best = krylov @ np.linalg.lstsq(images, np.asarray(rhs), rcond=None)[0]
    solution = MINRES(max_steps=4)(lambda x: matrix @ x, rhs)
    np.testing.assert_allclose(solution.value, best, rtol=1e-7)


@pytest.mark.parametrize("sign", [1, -1])
def test_preconditioned(sign):
    scales = jnp.logspace(0, 6, 12) * jnp.where(jnp.arange(12) % 3 == 0, -1, 1)
    rhs = jnp.arange(12.0) + 1
    solution = MINRES()(lambda x: scales * x, rhs, preconditioner=lambda r: sign * r / jnp.abs(scales))
    assert solution.status.name == "converged" and int(solution.products) <= 2 * 3  # eigenvalues 1 and -1
    np.testing.assert_allclose(solution.value, rhs / scales, rtol=1e-8)


def test_an_indefinite_preconditioner_is_not_silent():
    signs = jnp.array([1.0, -1.0, 1.0, -1.0])
    solution = MINRES()(lambda x: jnp.arange(1.0, 5.0) * x, jnp.ones(4) / 3, preconditioner=lambda r: signs * r)
    assert not bool(solution.status.ok)


@pytest.mark.slow  # its last digits are those of optimised code
def test_least_squares_of_a_large_inconsistent_system():
    rng = np.random.default_rng(0)
    scales = jnp.concatenate([jnp.zeros(50), jnp.linspace(1.0, 3.0, 150)])
    rhs = jnp.asarray(rng.normal(size=200))
    solution = MINRES()(lambda x: scales * x, rhs)
    assert solution.status.name == "singular"
    np.testing.assert_allclose(solution.residual, jnp.linalg.norm(rhs[:50]) / jnp.linalg.norm(rhs), rtol=1e-6)
