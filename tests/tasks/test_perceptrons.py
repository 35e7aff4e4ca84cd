"""The small networks of several tasks: their map, and weights in the precision of the task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="the networks are flax's")
from bilevel.tasks.perceptrons import first_weights, perceptron


@pytest.mark.parametrize(("x64", "expected"), [(True, np.float64), (False, np.float32)])
def test_a_perceptron_is_its_formula_in_the_precision_of_the_task(x64, expected):
    with jax.enable_x64(x64):
        network = perceptron(3, 2)
        weights = first_weights(network, jax.random.key(0), (4,))
        assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {np.dtype(expected)}
        x = jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)
        first, last = weights["params"]["layers_0"], weights["params"]["layers_2"]
        stated = jnp.tanh(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]
        np.testing.assert_allclose(network.apply(weights, x), stated, rtol=10 * np.finfo(expected).eps)
