import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.scalar_root import bracketed_root


@pytest.mark.parametrize(
    ("function", "lower", "upper", "root"),
    [
        (lambda x: jnp.arctan(1e6 * (x - 0.3)), -10.0, 10.0, 0.3),  # Newton diverges
        (lambda x: (x - 0.3) ** 3, -10.0, 10.0, 0.3),  # a triple root
        (lambda x: jnp.where(x < 0.3, -1.0, 1.0), -10.0, 10.0, 0.3),  # a jump: the slope is zero
        (lambda x: jnp.exp(x) - 1e-8, -60.0, 60.0, np.log(1e-8)),
        (lambda x: x + 5.0, 0.0, 1.0, 0.0),  # no root between the ends
        (lambda x: x - 5.0, 0.0, 1.0, 1.0),
    ],
)
def test_the_root_is_found_to_rounding(function, lower, upper, root):
    found = jax.jit(lambda: bracketed_root(function, jnp.float64(lower), jnp.float64(upper)))()
    np.testing.assert_allclose(found, root, atol=2e-5 if function(root + 1e-5) < 1e-14 else 1e-14)


@pytest.mark.slow
def test_derivatives_of_any_order_and_in_both_modes():
    def root(c):
        return bracketed_root(lambda x, c: x**3 - c, 0.0, 10.0, c)

    np.testing.assert_allclose(jax.grad(root)(8.0), 1 / 12, rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(root)(8.0), 1 / 12, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(jax.grad(root))(8.0), -2 / 9 * 8 ** (-5 / 3), rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(root)(jnp.array([1.0, 8.0, 27.0])), [1.0, 2.0, 3.0], rtol=1e-15)
