"""Block pivoting, the lanes it leaves to another method, and the inverse it works with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import nnls

from bilevel.foundation.rescue import rescued
from bilevel.kernels.pivoting import block_pivoting
from bilevel.kernels.triangular import inverse_lower


def test_it_finds_the_non_negative_least_squares_solution_of_scipy():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 40, 12)), rng.standard_normal((8, 40))
    solve = jax.jit(jax.vmap(lambda X, y: block_pivoting(X.T @ X, -X.T @ y, jnp.zeros(12, bool), 50)))
    found = solve(jnp.asarray(X), jnp.asarray(y))
    assert bool(jnp.all(found.solved))
    assert_allclose(found.y, [nnls(*pair)[0] for pair in zip(X, y, strict=True)], atol=1e-12)


def test_free_rows_are_never_at_zero_by_force():
    found = block_pivoting(jnp.eye(2), jnp.array([1.0, 1.0]), jnp.array([True, False]), 10)
    assert_allclose(found.y, [-1.0, 0.0])


@pytest.mark.parametrize("matrix", [-np.eye(2), np.ones((2, 2)) - np.eye(2)])
def test_a_matrix_that_is_not_positive_definite_is_not_solved(matrix):
    assert not bool(block_pivoting(jnp.asarray(matrix), -jnp.ones(2), jnp.zeros(2, bool), 10).solved)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 23])
def test_the_inverse_of_a_triangle(size):
    factor = np.tril(np.random.default_rng(size).standard_normal((size, size))) + 3 * np.eye(size)
    assert_allclose(inverse_lower(jnp.asarray(factor)) @ factor, np.eye(size), atol=1e-12)


def test_only_failed_lanes_take_the_second_method_which_runs_only_if_there_are_any():
    def total(x):
        return rescued(x < 0, lambda x: -x, (x,), x)

    x = jnp.array([[1.0, -2.0], [3.0, 4.0]])
    assert_allclose(jax.vmap(jax.vmap(total))(x), jnp.abs(x))
    assert " cond" in str(jax.make_jaxpr(jax.vmap(total))(x[0]))
