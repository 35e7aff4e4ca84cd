"""Outside solvers under our residual, status and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import ElasticNet, Lasso

import bilevel as bl

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(30, 5))
TARGET = MATRIX @ np.array([1.0, 0.0, -2.0, 0.0, 0.5]) + 0.1 * RNG.normal(size=30)


def lasso(solver):
    return bl.InnerProblem(
        lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
        lambda key, h: jnp.zeros(5),
        penalty=bl.L1(weight=jnp.exp),
        solver=solver,
    )


def data():
    return jnp.asarray(MATRIX), jnp.asarray(TARGET)


@pytest.mark.slow
def test_scikit_learn_under_our_derivatives():
    estimator = Lasso(fit_intercept=False, tol=1e-14, max_iter=100_000)
    solver = bl.ScikitLearn(estimator, lambda h: {"alpha": float(np.exp(h))}, tol=1e-7)
    outside, inside = lasso(solver), lasso(bl.ActiveSetNewton())
    found = jax.jit(lambda h: outside.solve(h, data()))(-2.0)
    assert found.status.name == "converged" and int(found.steps) == 1
    assert_allclose(found.params, inside.solve(-2.0, data()).params, atol=1e-7)
    slope = jax.jacrev(lambda h: outside.solve(h, data()).params)(-2.0)
    assert_allclose(slope, jax.jacrev(lambda h: inside.solve(h, data()).params)(-2.0), atol=1e-8)
    lanes = jax.vmap(lambda h: outside.solve(h, data()).params)(jnp.array([-2.0, -1.0]))
    assert_allclose(lanes[0], found.params, atol=1e-12)
    assert int(outside.solve(-2.0, data(), init=found.params).steps) == 0
    assert estimator.get_params()["alpha"] == 1.0  # the user's estimator stays as it was


@pytest.mark.slow
def test_an_estimator_of_another_problem_is_found_out():
    solver = bl.ScikitLearn(ElasticNet(fit_intercept=False, l1_ratio=0.5), lambda h: {"alpha": float(np.exp(h))})
    assert lasso(solver).solve(-2.0, data()).status.name == "max_steps"


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", ["Nelder-Mead", "TNC"])
def test_scipy_methods(method):
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(jnp.cosh(w["a"] - h)) + jnp.sum((w["b"] - 1.0) ** 2),
        lambda key, h: {"a": jnp.zeros(2), "b": jnp.zeros(())},
        solver=bl.SciPy(method, tol=1e-4),
    )
    found = inner.solve(0.5, 0.0)
    assert found.status.name == "converged"
    assert_allclose(found.params["a"], 0.5, atol=1e-4)


@pytest.mark.slow
def test_a_loss_over_traced_values():
    """What the loss closes over may be traced, by jit and by vmap."""

    @jax.jit
    def solve(shift):
        inner = bl.InnerProblem(
            lambda w, h, batch: jnp.sum((w - shift) ** 2), lambda key, h: jnp.zeros(2), solver=bl.SciPy("BFGS")
        )
        return inner.solve(0.0, 0.0).params

    assert_allclose(jax.vmap(solve)(jnp.array([1.0, 2.0])), [[1.0, 1.0], [2.0, 2.0]], atol=1e-6)


def test_scipy_refuses_what_does_not_fit():
    quadratic = lambda w, h, batch: jnp.sum((w - h) ** 2)
    zeros = lambda key, h: jnp.zeros(2)
    with pytest.raises(ValueError, match=r"would ignore L1.*Use bl.ActiveSetNewton"):
        bl.InnerProblem(quadratic, zeros, penalty=bl.L1(1.0), solver=bl.SciPy("L-BFGS-B")).solve(1.0, 0.0)
    with pytest.raises(ValueError, match="would ignore Box"):
        bl.InnerProblem(quadratic, zeros, constraint=bl.Box(0.0, 1.0), solver=bl.SciPy("BFGS")).solve(1.0, 0.0)
    with pytest.raises(ValueError, match=r"does not fit a problem stated by a loss.*L-BFGS-B"):
        bl.InnerProblem(quadratic, zeros, solver=bl.SciPy("hybr")).solve(1.0, 0.0)
    with pytest.raises(ValueError, match=r"does not fit a problem stated by a residual.*hybr"):
        bl.InnerProblem.from_residual(lambda w, h, batch: w - h, zeros, bl.SciPy("BFGS")).solve(1.0, 0.0)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "solver",
    [optimistix.Newton(rtol=1e-10, atol=1e-10), optimistix.LevenbergMarquardt(rtol=1e-10, atol=1e-10),
     optimistix.FixedPointIteration(rtol=1e-10, atol=1e-10)],
    ids=["root finder", "least squares", "fixed point"],
)  # fmt: skip
def test_optimistix_on_a_fixed_point(solver):
    inner = bl.InnerProblem.from_fixed_point(
        lambda w, h, batch: 0.5 * jnp.cos(w) + h, lambda key, h: jnp.zeros(3), bl.Optimistix(solver, tol=1e-8)
    )
    solve = jax.jit(jax.vmap(lambda h: inner.solve(h, 0.0)))
    found = solve(jnp.array([[0.0, 0.1, 0.2], [1.0, 1.0, 1.0]]))
    assert found.status.name == "converged"
    assert_allclose(
        found.params, 0.5 * jnp.cos(found.params) + jnp.array([[0.0, 0.1, 0.2], [1.0, 1.0, 1.0]]), atol=1e-7
    )


def test_optimistix_that_stops_early_is_found_out():
    """A minimiser that stops on small changes, far from stationary: the status comes from the residual."""
    scales = np.logspace(0, -3, 6)
    inner = bl.InnerProblem(
        lambda w, h, batch: 0.5 * jnp.sum(jnp.asarray(scales) * (w - h) ** 2),
        lambda key, h: jnp.zeros(6),
        solver=bl.Optimistix(optimistix.GradientDescent(1.0, rtol=1e-2, atol=1e-2), max_steps=1),
    )
    found = inner.solve(1.0, 0.0)
    assert found.status.name == "max_steps" and float(found.residual) > 1e-3
