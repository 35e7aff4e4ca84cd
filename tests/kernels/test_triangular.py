"""The inverse of a triangular factor: an inverse at every size, in batches, and as exact as its condition allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.kernels.triangular import inverse_lower


def factor(n, spread=0.0, dtype="float64"):
    rng = np.random.default_rng(n)
    root = rng.normal(size=(n, n)) * np.logspace(-spread, spread, n)
    return jnp.asarray(np.linalg.cholesky(root @ root.T + np.diag(np.logspace(-spread, spread, n) ** 2)), dtype)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9])
def test_it_is_the_inverse_and_triangular(n):
    lower = factor(n)
    inverse = inverse_lower(lower)
    assert_allclose(inverse @ lower, np.eye(n), atol=1e-12)
    assert_allclose(np.triu(inverse, 1), 0)


@pytest.mark.slow
def test_the_error_is_rounding_times_the_condition():
    for dtype in ("float32", "float64"):
        lower = factor(16, spread=1.5, dtype=dtype)
        left = np.abs(inverse_lower(lower) @ lower - jnp.eye(16, dtype=dtype)).max()
        assert left < 10 * np.finfo(dtype).eps * np.linalg.cond(lower)


@pytest.mark.slow
def test_a_batch_is_inverted_lane_by_lane_and_differentiated():
    lanes = jnp.stack([factor(5), 2 * factor(5)])
    assert_allclose(jax.vmap(inverse_lower)(lanes), jnp.stack([inverse_lower(lane) for lane in lanes]), rtol=1e-12)
    lower, step = factor(5), jnp.tril(jnp.ones((5, 5)))
    _, change = jax.jvp(inverse_lower, (lower,), (step,))
    inverse = inverse_lower(lower)
    assert_allclose(change, -inverse @ step @ inverse, atol=1e-10)
