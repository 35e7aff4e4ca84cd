import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import CG, Operator, check_symmetric

SYMMETRIC = np.asarray((lambda a: a + a.T)(np.random.default_rng(0).normal(size=(50, 50))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(5))
def test_a_symmetric_map_passes(dtype, seed):
    matrix = SYMMETRIC.astype(dtype)
    whole = lambda x: {"a": matrix @ x["a"]}
    assert check_symmetric(whole, {"a": jnp.ones(50, dtype)}, jax.random.key(seed)) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(5))
def test_one_entry_that_is_not_symmetric_is_found(dtype, seed):
    matrix = (SYMMETRIC + 0.5 * np.eye(50, k=49)).astype(dtype)
    operator = Operator(lambda x: matrix @ x, owner="the residual F")
    with pytest.raises(ValueError, match=r"the residual F is not symmetric.*Use bl.GMRES\(\) or bl.Dense\(\)"):
        check_symmetric(operator, jnp.ones(50, dtype), jax.random.key(seed))


def test_under_a_trace_nothing_is_raised():
    @jax.jit
    def run(matrix):
        check_symmetric(lambda x: matrix @ x, jnp.ones(2), jax.random.key(0))
        return matrix

    skew = jnp.array([[1.0, 2.0], [0.0, 1.0]])
    assert jnp.array_equal(run(skew), skew)
    with pytest.raises(ValueError, match="not symmetric"):
        check_symmetric(lambda x: skew @ x, jnp.ones(2), jax.random.key(0))


def test_nan_is_left_to_the_solve():
    assert check_symmetric(lambda x: jnp.nan * x, jnp.ones(2), jax.random.key(0)) is None
    assert CG()(lambda x: jnp.nan * x, jnp.ones(2)).status.name == "nonfinite"
