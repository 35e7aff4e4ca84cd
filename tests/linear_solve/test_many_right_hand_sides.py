"""Batches of right-hand sides or cotangents of one system: what is shared is made once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.linear_solve import CG, Dense, Operator

RNG = np.random.default_rng(0)
SIZE, MANY = 12, 7
FACTOR = RNG.normal(size=(SIZE, SIZE))
DEFINITE = FACTOR @ FACTOR.T + np.eye(SIZE)
SINGULAR = FACTOR[:, :5] @ FACTOR[:, :5].T
RHS = RNG.normal(size=(MANY, SIZE))


def factorizations(program):
    """Cholesky factorisations of single matrices in a compiled program."""
    return len(re.findall(rf"f64\[{SIZE},{SIZE}\][^\n]*custom-call[^\n]*potrf", program.as_text()))


def test_one_matrix_and_one_factor_for_a_batch_of_right_hand_sides():
    operator = Operator(lambda x: DEFINITE @ x, symmetric=True, definite=True)
    batch = jax.jit(jax.vmap(lambda rhs: Dense()(operator, rhs).value)).lower(RHS).compile()
    np.testing.assert_allclose(batch(RHS), np.linalg.solve(DEFINITE, RHS.T).T, rtol=1e-10)
    assert factorizations(batch) == 1 and f"f64[{MANY},{SIZE},{SIZE}]" not in str(batch.as_text())


@pytest.mark.parametrize("symmetric", [True, None])
def test_batches_inside_batches_are_rescued_each_in_its_place(symmetric):
    matrices, rhs = jnp.stack([DEFINITE, SINGULAR, DEFINITE.T]), RHS[:6].reshape(2, 3, SIZE) @ SINGULAR

    def solve(matrix, rhs):
        return Dense()(Operator(lambda x: matrix @ x, symmetric=symmetric, definite=symmetric), rhs).value

    one = jax.jit(jax.vmap(jax.vmap(solve, (0, None)), (None, 0)))(matrices, rhs[:, 0])  # matrices inside
    other = jax.jit(jax.vmap(jax.vmap(solve, (None, 0)), (0, None)))(matrices, rhs[0])  # right-hand sides inside
    for found, vectors in ((one, rhs[:, 0]), (jnp.swapaxes(other, 0, 1), rhs[0])):
        exact = jnp.einsum("mij,bj->bmi", jnp.linalg.pinv(matrices, rtol=1e-12), vectors)
        np.testing.assert_allclose(found, exact, rtol=1e-7, atol=1e-9)


def counting(matrix):
    """x -> matrix x, which counts its calls; one call may hold a whole batch."""
    calls = []

    def product(x):
        calls.append(x.shape)
        return x @ matrix.T

    def operator(x):
        return jax.pure_callback(product, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="broadcast_all")

    return operator, calls


def test_lanes_of_cg_share_the_products():
    operator, calls = counting(DEFINITE)
    solution = jax.jit(jax.vmap(lambda rhs: CG(tol=1e-10)(operator, rhs)))(RHS)
    jax.block_until_ready(solution)
    np.testing.assert_allclose(solution.value, np.linalg.solve(DEFINITE, RHS.T).T, rtol=1e-6)
    assert set(calls) == {(MANY, SIZE)}  # a product of matrices each
    assert len(calls) <= int(jnp.max(solution.products)) + 2


@pytest.mark.slow
def test_a_jacobian_of_the_solution_has_one_factorisation():
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((batch @ w - 1.0) ** 2) + 0.5 * jnp.sum(jnp.exp(h) * w**2),
        init=lambda key, h: jnp.zeros(SIZE),
        solver=bl.LBFGS(tol=1e-12),
    )
    design, hparams = jnp.asarray(FACTOR), jnp.linspace(0.0, 1.0, SIZE)
    solution = lambda h: inner.solve(h, design).params
    inverse = jnp.linalg.inv(design.T @ design + jnp.diag(jnp.exp(hparams)))
    exact = -inverse * (jnp.exp(hparams) * (inverse @ design.sum(axis=0)))
    for jacobian in (jax.jacrev(solution), jax.jacfwd(solution)):
        program = jax.jit(jacobian).lower(hparams).compile()
        assert factorizations(program) == 1 and f"f64[{SIZE},{SIZE},{SIZE}]" not in str(program.as_text())
        np.testing.assert_allclose(program(hparams), exact, rtol=1e-6, atol=1e-9)
