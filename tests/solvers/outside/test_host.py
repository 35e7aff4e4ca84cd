"""Host functions: what reaches them, what comes back, and what is said when it is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.solvers.outside.host import call_host
from bilevel.training.devices import refuse_host


def test_values_arrive_whole_in_every_dtype():
    """JAX's callback thread has 64-bit types off: they must not be rounded on the way, under jit and vmap neither."""
    seen = []

    def function(params, number, count):
        seen.append((params.dtype, number.dtype, count.dtype, float(number), int(count)))
        return params + number

    exact, large = 1.0 + 1e-15, 2**40 + 1
    call = jax.jit(jax.vmap(lambda x: call_host(function, x, jnp.asarray(exact), jnp.asarray(large))))
    result = call(jnp.array([0.0, 1.0]))
    assert result.dtype == jnp.float64
    assert_allclose(result, [exact, 1 + exact], rtol=0, atol=0)
    assert all(entry[3:] == (exact, large) for entry in seen)
    assert all(str(kind) in ("float64", "int64") for entry in seen for kind in entry[:3])


def test_pytrees_and_float32():
    function = lambda params, h, batch: {"a": params["a"] + h, "b": params["b"] * batch}
    with jax.enable_x64(False):
        params = {"a": jnp.zeros(2), "b": jnp.ones((2, 1))}
        result = jax.jit(lambda h: call_host(function, params, h, 3.0))(jnp.float32(2.0))
    assert result["a"].dtype == jnp.float32
    assert_allclose(result["a"], 2.0)
    assert_allclose(result["b"], 3.0)


@pytest.mark.slow
def test_a_wrong_answer_is_called_by_its_name():
    def problem(function):
        loss = lambda w, h, batch: jnp.sum((w - h) ** 2)
        return bl.InnerProblem(loss, lambda key, h: jnp.zeros(2), solver=bl.Host(function))

    found = problem(lambda w, h, batch: w + 0.5).solve(2.0, None)
    assert found.status.name == "max_steps" and float(found.residual) == pytest.approx(0.75)
    broken = problem(lambda w, h, batch: w * np.nan).solve(2.0, None)
    assert broken.status.name == "nonfinite" and np.all(np.isnan(broken.params))  # NaN never becomes 0


@pytest.mark.slow
def test_a_wrong_shape_is_a_sentence():
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(w**2), lambda key, h: jnp.ones(2), solver=bl.Host(lambda w, h, batch: np.zeros(3))
    )
    with pytest.raises(Exception, match=r"returned shape \(3,\) where \(2,\) is asked for"):
        jax.block_until_ready(inner.solve(1.0, 0.0).params)


@pytest.mark.parametrize("solver", [bl.Host(np.copy), bl.ScikitLearn(None, dict), bl.SciPy(), bl.SciPyLeastSquares()])
def test_a_solver_on_the_host_does_not_share_a_problem_between_devices(solver):
    with pytest.raises(ValueError, match=f"{type(solver).__name__} solves on one device"):
        refuse_host(solver)
