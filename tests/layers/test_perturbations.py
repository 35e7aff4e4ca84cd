"""Perturbed functions and maximisers: values and derivatives of the smoothed function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

KEY = jax.random.key(3)
MANY = 60_000


def one_hot(x, *args):
    return jax.nn.one_hot(jnp.argmax(x), x.size)


@pytest.mark.slow
def test_gumbel_noise_makes_softmax():
    x = jnp.array([0.3, -0.2, 0.1])
    soft = bl.perturbed_argmax(one_hot, samples=MANY, scale=0.5)
    assert_allclose(soft(x, KEY), jax.nn.softmax(x / 0.5), atol=1e-2)
    wanted = jax.jacobian(lambda x: jax.nn.softmax(x / 0.5))(x)
    assert_allclose(jax.jacrev(soft)(x, KEY), wanted, atol=3e-2)
    assert_allclose(jax.jacfwd(soft)(x, KEY), jax.jacrev(soft)(x, KEY), atol=1e-12)


@pytest.mark.slow
def test_the_derivative_of_the_maximum_is_the_maximiser():
    x = jnp.array([0.3, -0.2, 0.1])
    highest = bl.perturbed_max(one_hot, samples=100, scale=0.5)
    maximiser = bl.perturbed_argmax(one_hot, samples=100, scale=0.5)
    assert_allclose(jax.grad(highest)(x, KEY), maximiser(x, KEY), rtol=1e-12)
    assert_allclose(jax.hessian(highest)(x, KEY), jax.jacobian(maximiser)(x, KEY), rtol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("control", [False, True])
def test_trees_arguments_jit_and_vmap(control):
    """Of a linear function the smoothed one is itself, up to the mean of the noise."""
    function = lambda x, weight: weight * (jnp.sum(x["a"]) - 2 * x["b"])
    smooth = bl.perturbed(function, samples=4000, scale=0.5, noise=bl.layers.Normal(), control_variate=control)
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
    assert_allclose(jax.jit(smooth)(x, KEY, 3.0), 6.0, atol=0.3)
    grads = jax.grad(smooth)(x, KEY, 3.0)
    assert_allclose(grads["a"], 3.0, atol=0.6)
    assert_allclose(grads["b"], -6.0, atol=0.9)
    of_weight = jax.grad(lambda weight: smooth(x, KEY, weight))(3.0)
    assert_allclose(of_weight, smooth(x, KEY, 1.0), rtol=1e-12)
    keys = jax.random.split(KEY, 2)
    both = jax.vmap(lambda key: smooth(x, key, 3.0))(keys)
    assert_allclose(both, [smooth(x, key, 3.0) for key in keys], rtol=1e-12)


@pytest.mark.slow
def test_a_control_variate_lowers_the_variance():
    errors = {}
    for control in (False, True):
        smooth = bl.perturbed(lambda x: 10.0 + jnp.sign(x), samples=200, scale=0.5, control_variate=control)
        found = jax.vmap(lambda key, smooth=smooth: jax.grad(smooth)(0.1, key))(jax.random.split(KEY, 20))
        errors[control] = np.std(found)
    assert errors[True] < 0.3 * errors[False]


def test_float32():
    soft = bl.perturbed_argmax(one_hot, samples=10, scale=0.5)
    found = jax.grad(lambda x: soft(x, KEY)[0])(jnp.array([0.3, 0.1], jnp.float32))
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("control", [False, True])
def test_a_function_of_integers(control):
    """Ranks, signs and counts of type int are smoothed like the same numbers of type float."""
    ranks = lambda x: jnp.argsort(jnp.argsort(x))
    x = jnp.array([0.1, 0.2, 0.15])
    smooth = lambda function: bl.perturbed(function, samples=50, scale=0.5, control_variate=control)
    wanted = jax.jacobian(smooth(lambda x: ranks(x).astype(float)))(x, KEY)
    assert_allclose(jax.jacobian(smooth(ranks))(x, KEY), wanted, rtol=1e-12)
    assert jnp.any(wanted != 0)
