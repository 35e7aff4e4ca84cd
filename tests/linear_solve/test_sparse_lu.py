"""Sparse factors as a linear solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from numpy.testing import assert_allclose

from bilevel.foundation.status import Code
from bilevel.linear_solve import AutoLinear, Operator
from bilevel.linear_solve.base import Stored
from bilevel.linear_solve.sparse_lu import SparseLU, pivot_ratio

MATRIX = np.array([[2.0, 0.5, 1.0], [0.5, 1.0, 0.0], [1.0, 0.0, 0.0]])


def operator(matrix):
    stored = BCOO.fromdense(matrix, nse=matrix.size + 2)  # two of them pad
    return Operator(lambda x: matrix @ x, symmetric=True, definite=False, stored=Stored(stored, 2))


def test_it_solves_and_is_chosen():
    found = AutoLinear()(operator(jnp.asarray(MATRIX)), jnp.array([1.0, 2.0, 3.0]))
    assert found.status.name == "converged"
    assert_allclose(MATRIX @ found.value, [1.0, 2.0, 3.0], atol=1e-12)
    assert "SparseLU" in AutoLinear().explain(operator(jnp.asarray(MATRIX)), jnp.ones(3))


@pytest.mark.slow
def test_many_right_hand_sides_and_many_matrices():
    solve = lambda matrix, rhs: SparseLU()(operator(matrix), rhs).value
    rhs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    matrices = jnp.asarray(MATRIX) * jnp.arange(1.0, 5.0)[:, None, None]
    one = jax.vmap(solve, (None, 0))(jnp.asarray(MATRIX), rhs)
    assert_allclose(one @ MATRIX, rhs, atol=1e-12)
    many = jax.jit(jax.vmap(solve))(matrices, rhs)
    assert_allclose(many * jnp.arange(1.0, 5.0)[:, None], one, atol=1e-12)
    pairs = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(matrices, rhs)
    assert_allclose(pairs[2], one / 3, atol=1e-12)


def test_the_status_of_a_system_without_a_solution():
    singular = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    assert SparseLU()(operator(singular), jnp.array([1.0, 0.0, 0.0])).status.name == "singular"
    assert SparseLU()(operator(singular), jnp.array([1.0, 1.0, 0.0])).status.ok
    assert SparseLU()(operator(singular), jnp.array([jnp.nan, 1.0, 0.0])).status.name == "nonfinite"
    assert float(pivot_ratio(BCOO.fromdense(singular))) < 1e-12


def test_a_lane_that_is_not_finite_leaves_the_others_alone():
    rhs = jnp.array([[1.0, 2.0, 3.0], [jnp.nan, 1.0, 1.0], [1e-9, 1.0, 1e9]])
    found = jax.vmap(lambda rhs: SparseLU()(operator(jnp.asarray(MATRIX)), rhs))(rhs)
    assert found.status.code.tolist() == [Code.converged, Code.nonfinite, Code.converged]
    assert_allclose(found.value[0] @ MATRIX, rhs[0], atol=1e-12)


def test_products_alone_are_refused():
    with pytest.raises(ValueError, match="stored sparse matrix"):
        SparseLU()(lambda x: x, jnp.ones(2))
