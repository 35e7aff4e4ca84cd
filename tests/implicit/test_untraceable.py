"""Fixed-point maps that NumPy runs: solved on the host, never differentiated in silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

FIXED_POINT = 0.7980816


def numpy_map(w, h, batch):
    return {"a": np.cos(np.asarray(w["a"])) + float(h), "b": 0.5 * np.asarray(w["b"]) + 1.0}


def problem(solver):
    init = lambda key, h: {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}
    return bl.InnerProblem.from_fixed_point(numpy_map, init=init, solver=solver)


@pytest.mark.sample(1)
@pytest.mark.filterwarnings("ignore:.*cannot be traced")
@pytest.mark.parametrize("solver", [bl.FixedPointIteration(tol=1e-10), bl.Anderson()], ids=["iteration", "anderson"])
def test_it_is_solved_under_vmap_and_jit(solver):
    solutions = jax.jit(jax.vmap(lambda h: problem(solver).solve(h, None)))(jnp.array([0.0, 0.1]))
    assert solutions.status.name == "converged"
    np.testing.assert_allclose(solutions.params["a"][1], FIXED_POINT, rtol=1e-6)
    np.testing.assert_allclose(solutions.params["b"], 2.0, rtol=1e-6)


def test_a_warning_says_what_is_lost_and_a_derivative_is_refused():
    inner = problem(bl.Anderson())
    with pytest.warns(UserWarning, match=r"the fixed point of numpy_map cannot be traced .* jax.numpy"):
        with pytest.raises(TypeError, match="it has no derivative: write it with jax.numpy"):
            jax.jacobian(lambda h: inner.solve(h, None).params)(0.1)


@pytest.mark.filterwarnings("ignore:.*cannot be traced")
def test_a_solver_that_needs_a_derivative_refuses_it():
    inner = bl.InnerProblem.from_residual(
        lambda w, h, batch: np.asarray(w) ** 3 - float(h), init=lambda key, h: jnp.ones(1), solver=bl.Newton()
    )
    with pytest.raises(TypeError, match="the residual <lambda> cannot be traced by JAX, so it has no derivative"):
        inner.solve(8.0, None)
