import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.spectral import positive_part

BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
DIRECTION = np.random.default_rng(1).normal(size=(5, 5))
DIRECTION = DIRECTION + DIRECTION.T


@pytest.mark.parametrize(
    "values", [[2.0, 1, 0.5, -1, -3], [1.0, 1, 1, -1, -1], [2.0, 2, 2, 2, 2], [-1.0, -1, -2, -2, -2]]
)
def test_first_and_second_derivatives_along_a_line(values):
    start = BASIS @ np.diag(values) @ BASIS.T

    def along(t):
        return jnp.sum(jnp.asarray(DIRECTION) * positive_part(start + t * DIRECTION))

    slope, curvature = jax.jit(jax.grad(along)), jax.jit(jax.grad(jax.grad(along)))
    step = 1e-5
    np.testing.assert_allclose(slope(0.0), (along(step) - along(-step)) / (2 * step), atol=1e-8)
    np.testing.assert_allclose(curvature(0.0), (slope(step) - slope(-step)) / (2 * step), atol=1e-6)


@pytest.mark.slow
def test_at_zero_everything_is_finite():
    for order in (jax.jacfwd(positive_part), jax.jacrev(positive_part), jax.hessian(positive_part)):
        assert np.isfinite(order(jnp.zeros((3, 3)))).all()
