"""Equilibrium layers: gradients against dense ones, lanes that stop apart, truncated derivatives, regularisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

WIDTH, SAMPLES = 4, 3
RANDOM = np.random.default_rng(0)
WEIGHTS = {"W": 0.3 * RANDOM.normal(size=(WIDTH, WIDTH)), "U": RANDOM.normal(size=(WIDTH, 2))}
INPUTS = RANDOM.normal(size=(SAMPLES, 2))
TARGETS = RANDOM.normal(size=(SAMPLES, WIDTH))


def kind(method):
    return type(method).__name__


def cell(state, weights, x):
    """A state of two leaves."""
    z = jnp.concatenate([state["a"], state["b"]])
    after = jnp.tanh(weights["W"] @ z + weights["U"] @ x)
    return {"a": after[:1], "b": after[1:]}


def start(weights, x):
    return {"a": jnp.zeros(1), "b": jnp.zeros(WIDTH - 1)}


def flat(state):
    return jnp.concatenate([state["a"], state["b"]], axis=-1)


def loss_of(layer):
    return lambda weights, inputs: jnp.sum((flat(layer(weights, inputs).params) - TARGETS) ** 2)


def dense(weights, inputs):
    """The gradients of the loss by one dense system for each sample."""

    def of_one(x, target):
        z = jnp.zeros(WIDTH)
        for _ in range(300):
            z = jnp.tanh(weights["W"] @ z + weights["U"] @ x)
        slope = 1 - z**2
        adjoint = jnp.linalg.solve((jnp.eye(WIDTH) - slope[:, None] * weights["W"]).T, 2 * (z - target)) * slope
        return {"W": jnp.outer(adjoint, z), "U": jnp.outer(adjoint, x)}, weights["U"].T @ adjoint

    by_weight, by_input = jax.vmap(of_one)(inputs, TARGETS)
    return jax.tree.map(lambda leaf: leaf.sum(0), by_weight), by_input


def error(grads, exact):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (grads, exact)), strict=True))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "backward", [bl.GMRES(tol=1e-12), bl.Neumann(terms=200), bl.Dense()], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("solver", [bl.Anderson(tol=1e-12), bl.Broyden(tol=1e-12)], ids=lambda one: type(one).__name__)
def test_the_gradient_is_the_dense_one(solver, backward):
    layer = bl.layers.equilibrium(cell, start, solver=solver, backward=backward)
    grads = jax.grad(loss_of(layer), argnums=(0, 1))(WEIGHTS, jnp.asarray(INPUTS))
    assert error(grads, dense(WEIGHTS, INPUTS)) < 1e-8


def test_more_terms_of_a_truncated_derivative_are_nearer():
    exact = dense(WEIGHTS, INPUTS)

    def wrong(terms, alpha=1.0):
        layer = bl.layers.equilibrium(
            cell, start, solver=bl.Anderson(tol=1e-12), backward=bl.Neumann(terms=terms, alpha=alpha)
        )
        return error(jax.grad(loss_of(layer), argnums=(0, 1))(WEIGHTS, jnp.asarray(INPUTS)), exact)

    one, several, damped = wrong(1), wrong(12), wrong(12, alpha=0.5)
    assert 0 < several < damped < one


def test_lanes_stop_apart_and_begin_where_they_are_told():
    inputs = jnp.asarray(INPUTS) * jnp.array([0.0, 0.1, 3.0])[:, None]
    layer = bl.layers.equilibrium(cell, start, solver=bl.FixedPointIteration(tol=1e-10))
    found = jax.jit(lambda inputs: layer(WEIGHTS, inputs))(inputs)
    alone = [layer(WEIGHTS, inputs[lane : lane + 1]) for lane in range(SAMPLES)]
    assert [int(one.steps[0]) for one in alone] == found.steps.tolist() and len(set(found.steps.tolist())) == SAMPLES
    again = layer(WEIGHTS, inputs, found.params)
    assert int(again.steps.max()) <= 1 and again.status.name == "converged"


def test_a_lane_without_an_equilibrium_says_so_and_leaves_the_others_alone():
    layer = bl.layers.equilibrium(
        lambda z, w, x: w * z + x, lambda w, x: jnp.zeros_like(x), solver=bl.FixedPointIteration(max_steps=50)
    )
    scaled = bl.layers.equilibrium(
        lambda z, w, x: x[:1] * z + w, lambda w, x: jnp.zeros(1), solver=bl.FixedPointIteration(max_steps=200)
    )
    found = scaled(1.0, jnp.array([[0.5], [3.0]]))
    assert bool(found.status.ok[0]) and not bool(found.status.ok[1])
    np.testing.assert_allclose(found.params[0], 2.0, rtol=1e-6)
    assert layer(0.5, jnp.ones((2, 1))).params.shape == (2, 1)


def test_the_size_of_the_jacobian_is_estimated_without_bias():
    layer = bl.layers.equilibrium(cell, start)
    states = layer(WEIGHTS, INPUTS).params
    jacobians = (1 - flat(states) ** 2)[:, :, None] * WEIGHTS["W"]
    exact = jnp.mean(jnp.sum(jacobians**2, axis=(1, 2))) / WIDTH
    estimate = layer.jacobian_size(states, WEIGHTS, INPUTS, jax.random.key(0), probes=4000)
    np.testing.assert_allclose(estimate, exact, rtol=0.05)
    with pytest.raises(ValueError, match="at least one"):
        layer.jacobian_size(states, WEIGHTS, INPUTS, jax.random.key(0), probes=0)


def test_the_layer_keeps_float32():
    with jax.enable_x64(False):
        layer = bl.layers.equilibrium(cell, start)
        weights, inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (WEIGHTS, INPUTS))
        value, grad = jax.jit(jax.value_and_grad(loss_of(layer)))(weights, inputs)
        assert value.dtype == jnp.float32 and error(grad, dense(WEIGHTS, INPUTS)[0]) < 1e-3
