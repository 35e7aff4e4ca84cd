"""The condensed Newton system against the dense one, at weights of any range, singular and nonconvex."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.kernels.condensed import Parts, condensed

SIZES = (5, 7, 2)  # unknowns, bounds, equalities


def parts_of(seed, spread=0, rank=SIZES[0], sign=1.0):
    n, m, p = SIZES
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, rank))
    weights = 10.0 ** rng.uniform(-spread, spread, size=m)
    return Parts(*map(jnp.asarray, (sign * root @ root.T, rng.normal(size=(m, n)), weights, rng.normal(size=(p, n)))))


def system_of(parts, shift=0.0):
    n, p = SIZES[0], SIZES[2]
    top = parts.hessian + parts.bounds.T @ jnp.diag(parts.weights) @ parts.bounds + shift * jnp.eye(n)
    return jnp.block([[top, parts.rows.T], [parts.rows, jnp.zeros((p, p))]])


SOLVE = jax.jit(lambda parts, rhs: condensed(parts).solve(rhs[: SIZES[0]], rhs[SIZES[0] :]))


@pytest.mark.parametrize(("spread", "rtol"), [(0, 1e-10), (4, 1e-8), (8, 1e-6)])
def test_the_residual_is_small_whatever_the_weights(spread, rtol):
    parts = parts_of(0, spread)
    rhs = jnp.asarray(np.random.default_rng(1).normal(size=SIZES[0] + SIZES[2]))
    x, y = SOLVE(parts, rhs)
    matrix = system_of(parts)
    found = jnp.concatenate([x, y])
    backward = jnp.linalg.norm(matrix @ found - rhs) / (jnp.linalg.norm(matrix) * jnp.linalg.norm(found))
    assert float(backward) < 1e-12
    if spread == 0:
        assert_allclose(found, jnp.linalg.solve(matrix, rhs), rtol=rtol)


def test_a_singular_hessian_is_no_obstacle():
    singular = jnp.diag(jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    parts = parts_of(2)._replace(hessian=singular, bounds=jnp.zeros((SIZES[1], SIZES[0])))
    rhs = jnp.asarray(np.random.default_rng(3).normal(size=SIZES[0] + SIZES[2]))
    x, y = SOLVE(parts, rhs)
    assert_allclose(system_of(parts) @ jnp.concatenate([x, y]), rhs, atol=1e-9)


@pytest.mark.slow
def test_a_nonconvex_problem_is_shifted_until_it_is_convex():
    parts = parts_of(4, sign=-1.0)._replace(weights=jnp.full(SIZES[1], 1e-9))
    found = condensed(parts)
    assert float(found.shift) > 0
    assert int(found.factorizations) > 1
    rhs = jnp.asarray(np.random.default_rng(5).normal(size=SIZES[0] + SIZES[2]))
    x, _ = found.solve(rhs[: SIZES[0]], rhs[SIZES[0] :])
    assert_allclose(parts.rows @ x, rhs[SIZES[0] :], atol=1e-9)
    assert int(condensed(parts_of(4)).factorizations) == 1


@pytest.mark.slow
def test_the_derivative_is_that_of_the_dense_solve():
    parts = parts_of(6, 1)
    rhs = jnp.asarray(np.random.default_rng(7).normal(size=SIZES[0] + SIZES[2]))

    def ours(scale):
        return SOLVE(parts._replace(weights=scale * parts.weights, hessian=scale**2 * parts.hessian), rhs)[0]

    def dense(scale):
        moved = parts._replace(weights=scale * parts.weights, hessian=scale**2 * parts.hessian)
        return jnp.linalg.solve(system_of(moved), rhs)[: SIZES[0]]

    for differentiate in (jax.jacfwd, jax.jacrev):
        assert_allclose(differentiate(ours)(1.3), differentiate(dense)(1.3), rtol=1e-7)
