"""Second derivatives of solutions: every order of modes, alone, compiled and in a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

H = np.array([1.0, 2.0])
Q = np.array([[2.0, 0.3], [0.3, 1.0]])
START = np.zeros(2)

INNER = {
    "smooth": bl.InnerProblem(
        loss=lambda w, h, b: 0.5 * jnp.sum((w - h) ** 2) + 0.1 * jnp.sum(w**4), init=lambda key, h: jnp.zeros(2)
    ),
    "ball": bl.InnerProblem(
        loss=lambda w, h, b: 0.5 * jnp.sum((w - h) ** 2), init=lambda key, h: jnp.zeros(2), constraint=bl.L2Ball(1.0)
    ),
}


def program(h):
    total = jnp.ones((1, 2))
    return bl.quadratic_program(jnp.asarray(Q) * (1 + h[0] ** 2), h, G=total, h=jnp.array([-1.0])).params


SOLUTIONS = {
    "root": bl.custom_root(lambda w, h: w**3 - h)(lambda init, h: jnp.cbrt(h)),
    "smooth": lambda _, h: INNER["smooth"].solve(h, None).params,
    "ball": lambda _, h: INNER["ball"].solve(h, None).params,
    "program": lambda _, h: program(h),
}


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("name", SOLUTIONS)
def test_reverse_over_reverse_is_forward_over_forward(name):
    """JAX transposes the solve of a derivative only where no part of its right-hand side is a known zero."""
    value = lambda h: jnp.dot(SOLUTIONS[name](START, h), jnp.array([1.0, 2.0]))
    forward = jax.jacfwd(jax.jacfwd(value))(jnp.asarray(H))
    assert np.abs(forward).max() > 0.1
    backward = jax.jacrev(jax.grad(value))
    np.testing.assert_allclose(backward(jnp.asarray(H)), forward, rtol=1e-5, atol=1e-7)
    batch = jax.jit(jax.vmap(backward))(jnp.stack([H, H]))
    np.testing.assert_allclose(batch[1], forward, rtol=1e-5, atol=1e-7)
