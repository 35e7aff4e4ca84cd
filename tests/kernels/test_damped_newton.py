import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.damped_newton import minimize_convex


def evaluator(function):
    return lambda x: (function(x), jax.grad(function)(x), jax.hessian(function)(x))


@pytest.mark.parametrize("start", [0.0, 30.0, -30.0])
def test_a_function_on_which_newton_alone_diverges(start):
    function = evaluator(lambda x: jnp.sum(jnp.logaddexp(x - 1, 1 - x)))
    found = jax.jit(lambda x: minimize_convex(function, x, jnp.ones(2), 1e-14))(jnp.full(2, start))
    np.testing.assert_allclose(found.x, [1.0, 1.0], atol=1e-12)
    assert found.error <= 1e-14 and found.steps < 60


def test_a_singular_hessian():
    function = evaluator(lambda x: (jnp.sum(x) - 3.0) ** 2)
    found = jax.jit(lambda x: minimize_convex(function, x, jnp.ones(2), 1e-13))(jnp.zeros(2))
    np.testing.assert_allclose(found.x, [1.5, 1.5], atol=1e-12)
