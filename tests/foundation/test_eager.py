"""Public functions called eagerly: compiled once for shapes and settings, and not kept for ever."""

import jax
import jax.numpy as jnp
import pytest

from bilevel.foundation import eager
from bilevel.foundation.eager import Setting, compiles_once


def counted():
    traces = []

    @compiles_once
    def scaled(x, factor, setting):
        traces.append(1)
        return {"x": factor * x if setting.value == "plain" else jnp.sin(factor * x)}

    return scaled, traces


def test_a_call_is_traced_once_for_shapes_and_settings():
    scaled, traces = counted()
    for factor in (2.0, 3.0):
        assert scaled(jnp.ones(2), factor, Setting("plain"))["x"].tolist() == [factor, factor]
    assert len(traces) == 1
    scaled(jnp.ones(3), 2.0, Setting("plain"))
    scaled(jnp.ones(2), 2.0, Setting("other"))
    assert len(traces) == 3


@pytest.mark.parametrize("around", [jax.grad, jax.jit, lambda f: jax.vmap(lambda x: f(x[None])), jax.hessian])
def test_eager_transformations_trace_nothing_again(around):
    scaled, traces = counted()

    def total(x):
        return jnp.sum(scaled(x, 2.0, Setting("sine"))["x"])

    first = around(total)(jnp.ones(1))
    before = len(traces)
    for _ in range(3):
        again = around(total)(jnp.ones(1))
    assert len(traces) == before and jnp.array_equal(first, again)
    assert jnp.allclose(jax.grad(total)(jnp.ones(1)), 2 * jnp.cos(2.0))


@pytest.mark.slow
def test_what_is_kept_is_bounded():
    """The oldest call is dropped and traced again; the last ones are kept."""
    scaled, traces = counted()
    for size in range(eager.KEPT + 1):
        scaled(jnp.ones(size + 1), 2.0, Setting("plain"))
    scaled(jnp.ones(eager.KEPT), 2.0, Setting("plain"))
    assert len(traces) == eager.KEPT + 1
    scaled(jnp.ones(1), 2.0, Setting("plain"))
    assert len(traces) == eager.KEPT + 2


def test_settings_that_cannot_be_hashed_are_used_and_errors_pass():
    scaled, _ = counted()
    assert scaled(jnp.ones(1), 2.0, Setting(["plain"]))["x"].tolist() == jnp.sin(jnp.array([2.0])).tolist()

    @compiles_once
    def fails(x):
        raise TypeError("of the function itself")

    with pytest.raises(TypeError, match="of the function itself"):
        fails(jnp.ones(1))
