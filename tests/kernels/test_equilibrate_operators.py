"""The scaling of a program by matrices or by products: rows and columns of one length, measured alike both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO
from numpy.testing import assert_allclose

from bilevel.kernels.equilibrate_operators import (
    Groups,
    equilibrium,
    normal_matrix,
    single,
    squares_by_products,
    squares_of,
    units,
)
from bilevel.kernels.splitting import Quadratic, scaled

UNKNOWNS, ROWS = 6, 9


def matrices(spread=3):
    rng = np.random.default_rng(0)
    columns, rows = 10.0 ** rng.uniform(-spread, spread, UNKNOWNS), 10.0 ** rng.uniform(-spread, spread, ROWS)
    root = rng.normal(size=(UNKNOWNS, UNKNOWNS))
    P = columns[:, None] * (root @ root.T) * columns
    return jnp.asarray(P), jnp.asarray(rows[:, None] * rng.normal(size=(ROWS, UNKNOWNS)) * columns)


def stated(P, A):
    q, b = jnp.ones(UNKNOWNS), jnp.ones(ROWS)
    keep = lambda s: s
    return Quadratic(lambda x: P @ x, lambda x: A @ x, lambda y: A.T @ y, q, b, keep, keep, jnp.ones(ROWS))


def lengths(P, A, scales):
    """Of the columns of [P; A] and of the rows of A in the scaled program."""
    program = scaled(stated(P, A), scales)
    P, A = (np.stack([product(one) for one in np.eye(UNKNOWNS)], axis=1) for product in (program.hessian, program.rows))
    return np.linalg.norm(np.concatenate([P, A]), axis=0), np.linalg.norm(A, axis=1)


def test_rows_and_columns_have_about_one_length():
    P, A = matrices()
    before = [np.linalg.norm(A, axis=axis) for axis in (0, 1)]
    assert all(one.max() > 100 * one.min() for one in before)
    for one in lengths(P, A, equilibrium(stated(P, A).q, squares_of(P, A), single(ROWS))):
        assert one.max() < 2 * one.min()
        assert 0.3 < one.min() and one.max() < 3


def test_sparse_matrices_are_measured_like_dense_ones():
    P, A = matrices()
    weights, pushes = jnp.arange(1.0, UNKNOWNS + 1), jnp.arange(1.0, ROWS + 1)

    @jax.jit
    def measured(P, A):
        squares = squares_of(P, A)
        return squares.hessian(weights), squares.rows(weights), squares.transposed(pushes)

    sparse = [BCOO.from_scipy_sparse(scipy.sparse.csr_array(one)) for one in (P, A)]
    expected = P**2 @ weights, A**2 @ weights, (A**2).T @ pushes
    for dense, stored, wanted in zip(measured(P, A), measured(*sparse), expected, strict=True):
        assert_allclose(dense, wanted, rtol=1e-12)
        assert_allclose(stored, wanted, rtol=1e-12)


def test_random_signs_measure_lengths_within_a_factor():
    P, A = matrices()
    program = stated(P, A)
    for one in lengths(P, A, equilibrium(program.q, squares_by_products(program), single(ROWS))):
        assert one.max() < 10 * one.min()


def test_rows_of_a_group_share_their_scale():
    P, A = matrices()
    owner = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3])
    rows = np.asarray(equilibrium(stated(P, A).q, squares_of(P, A), Groups(owner, 4)).rows)
    assert all(len(set(rows[owner == group])) == 1 for group in range(4))
    assert len(set(rows)) == 4


def test_empty_rows_and_columns_keep_their_scale():
    P, A = matrices(spread=0)
    P, A = P.at[0].set(0).at[:, 0].set(0), A.at[:, 0].set(0).at[4].set(0)
    scales = equilibrium(stated(P, A).q, squares_of(P, A), single(ROWS))
    assert float(scales.columns[0]) == 1 and float(scales.rows[4]) == 1
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in scales)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_units_of_a_proof_do_not_depend_on_the_objective(factor):
    P, A = matrices()
    one, other = (units(stated(Q, A).q, squares_of(Q, A), single(ROWS)) for Q in (P, factor * P))
    assert_allclose(other.columns, one.columns, rtol=1e-12)
    assert_allclose(other.rows, one.rows, rtol=1e-12)
    assert_allclose(other.curvatures, factor * one.curvatures, rtol=1e-12)


def test_the_normal_matrix_by_its_definition():
    P, A = matrices(spread=0)
    weights = jnp.arange(1.0, ROWS + 1)
    assert_allclose(normal_matrix(P, A)(weights), P + A.T @ jnp.diag(weights) @ A, rtol=1e-12)
