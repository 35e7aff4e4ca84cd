import jax
import jax.numpy as jnp

from bilevel.foundation.closures import hoisted


def test_traced_values_that_a_function_closes_over_become_arguments():
    def other(scale, offset):
        run, constants = hoisted(lambda x: {"a": scale * x["a"] + offset, "b": x["b"]}, {"a": jnp.ones(3), "b": 1})
        assert len(constants) == 2
        return run([2 * constant for constant in constants], {"a": jnp.arange(3.0), "b": 7})

    result = jax.jit(other)(jnp.array(3.0), jnp.array(1))
    assert result["a"].tolist() == [2.0, 8.0, 14.0] and int(result["b"]) == 7


def test_constants_that_are_batched_stay_batched():
    def scaled(scale, x):
        run, constants = hoisted(lambda x: scale * x, x)
        return run(constants, x)

    assert jax.vmap(scaled, (0, None))(jnp.arange(3.0), jnp.array(2.0)).tolist() == [0.0, 2.0, 4.0]
