"""A second method for failed lanes: it runs in no lane where none failed, and changes no lane that did not."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from bilevel.foundation.callbacks import on_host
from bilevel.foundation.rescue import rescued


def counted():
    calls = []

    def method(x):
        def noted(x):
            calls.append(1)
            return -x

        return on_host(noted, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return method, calls


def test_only_failed_lanes_take_the_second_answer():
    method = lambda x: {"value": -10 * x, "size": jnp.sum(x)}
    found = lambda x: {"value": x, "size": jnp.zeros(())}
    lanes = jnp.array([[1.0, 2.0], [-3.0, 4.0], [5.0, 6.0]])
    got = jax.jit(jax.vmap(lambda x: rescued(x[0] < 0, method, (x,), found(x))))(lanes)
    assert_allclose(got["value"], [[1, 2], [30, -40], [5, 6]])
    assert_allclose(got["size"], [0, 1, 0])


def test_the_second_method_runs_only_where_a_lane_failed():
    method, calls = counted()
    run = jax.jit(jax.vmap(lambda x: rescued(x < 0, method, (x,), x)))
    jax.block_until_ready(run(jnp.array([1.0, 2.0])))
    assert not calls
    assert_allclose(run(jnp.array([1.0, -2.0])), [1, 2])
    assert calls


def test_batches_of_batches_and_arguments_without_a_batch():
    x, shift = np.arange(6.0).reshape(2, 3) - 2, jnp.asarray(100.0)
    run = jax.vmap(jax.vmap(lambda x: rescued(x < 0, lambda x, shift: x + shift, (x, shift), x)))
    assert_allclose(run(jnp.asarray(x)), np.where(x < 0, x + 100, x))
