"""A lane whose solve failed has the derivative NaN, and is not heard where its result is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.implicit.silence import silent


@jax.custom_jvp
def sine(x, y):
    """y sin x, whose derivatives are lost beyond x = 2."""
    return {"value": y * jnp.sin(x)}


@sine.defjvp
def _(primals, tangents):
    x, y = primals

    def linear(of, moved):
        x, y = of
        return {"value": y * jnp.cos(x) * moved[0] + jnp.sin(x) * moved[1]}

    return sine(x, y), silent(linear, primals, tangents, x > 2, primals)


def test_a_silent_map_is_the_map():
    value = lambda x, y: sine(x, y)["value"]
    plain = lambda x, y: y * jnp.sin(x)
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        for argument in (0, 1):
            found, expected = (derivative(f, argument)(1.0, 3.0) for f in (value, plain))
            assert_allclose(found, expected, rtol=1e-14, atol=1e-15)
    assert_allclose(jax.vmap(jax.grad(value), (0, None))(jnp.array([1.0, 3.0]), 2.0), [2 * np.cos(1.0), np.nan])


def masked(layer, lost):
    """The gradient in a number that all lanes share, and the same where the lane that fails is not masked."""

    def total(shared, mask):
        values = jax.vmap(layer, (None, 0))(shared, lost)
        return jnp.sum(jnp.where(mask & (lost > 0), 0, values))

    return (jax.jit(jax.grad(total))(1.0, mask) for mask in (True, False))


def program(shared, lost):
    """x = (shared, 1) where feasible; a lane with lost = 1 asks for x0 <= -2 and x0 >= -1."""
    h = jnp.stack([shared - 3 * lost, jnp.ones(()), jnp.ones(())])
    G = jnp.array([[1.0, 0], [0, 1], [-1, 0]])
    return jnp.sum(bl.quadratic_program(shared * jnp.eye(2), -4 * jnp.ones(2), G=G, h=h).params)


def cone_program(shared, lost):
    A, b = jnp.array([[1.0], [-1.0]]), jnp.stack([shared - 3 * lost, jnp.ones(())])
    return bl.cone_program(A, b, -jnp.ones(1), bl.cones.NonNegative(2)).params[0]


@bl.custom_root(lambda w, theta, lost: jnp.where(lost > 0, jnp.log(w - 2), w**2 - theta))
def root(init, theta, lost):
    return jnp.where(lost > 0, jnp.nan, jnp.sqrt(theta))


INNER = bl.InnerProblem(
    loss=lambda w, h, lost: jnp.where(lost > 0, w[0] * h, 0.5 * jnp.sum((w - h) ** 2)),  # unbounded where lost
    init=lambda key, h: jnp.zeros(1),
)


LAYERS = {
    "program": program,
    "cones": cone_program,
    "root": lambda shared, lost: root(None, shared, lost),
    "inner": lambda shared, lost: INNER.solve(shared, lost).params[0],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("program", 1.0), ("cones", 1.0), ("root", 0.5), ("inner", 1.0)])
def test_a_failed_lane_that_is_masked_leaves_a_shared_gradient_alone(name, expected):
    quiet, heard = masked(LAYERS[name], jnp.array([0.0, 1.0]))
    assert_allclose(quiet, expected, atol=1e-8)
    assert np.isnan(heard)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_hessian_does_not_hear_it_either(name):
    """By forward over reverse and by reverse over reverse. Where the lane is heard the Hessian is NaN, also of a loss
    that is linear in it."""
    lost = jnp.array([0.0, 1.0])

    def total(shared, mask, power):
        values = jax.vmap(LAYERS[name], (None, 0))(shared, lost)
        return jnp.sum(jnp.where(mask & (lost > 0), 0, values) ** power)

    def both(shared, mask, power):
        return jax.hessian(total)(shared, mask, power), jax.grad(jax.grad(total))(shared, mask, power)

    hessian = jax.jit(both, static_argnums=2)
    assert_allclose(hessian(1.0, True, 2), 2 * [{"root": 0.0}.get(name, 2.0)], atol=1e-7)
    assert np.all(np.isnan(hessian(1.0, False, 1)))
