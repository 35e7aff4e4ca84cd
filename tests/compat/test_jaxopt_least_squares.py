"""`bilevel.compat.jaxopt`: least squares, by bilevel's solvers and SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize

from bilevel.compat import jaxopt

TIMES = np.linspace(0.0, 2.0, 12)
SEEN = 2.0 * np.exp(-0.7 * TIMES) + 0.05 * np.sin(9 * TIMES)


def residual(w, scale):
    return scale * (w["a"] * jnp.exp(-w["b"] * TIMES) - SEEN)


START = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
MAKE = {
    "GaussNewton": lambda: jaxopt.GaussNewton(residual, tol=1e-9),
    "LevenbergMarquardt": lambda: jaxopt.LevenbergMarquardt(residual, tol=1e-9),
    "ScipyLeastSquares": lambda: jaxopt.ScipyLeastSquares(fun=residual),
    "lm": lambda: jaxopt.ScipyLeastSquares("lm", fun=residual),
}


@pytest.mark.parametrize("name", MAKE)
def test_a_decay_is_fitted(name):
    params, state = MAKE[name]().run(START, 3.0)
    found = optimize.least_squares(lambda w: w[0] * np.exp(-w[1] * TIMES) - SEEN, [1.0, 1.0], xtol=1e-14, ftol=1e-14)
    assert_allclose([params["a"], params["b"]], found.x, atol=1e-6)
    value = state.fun_val if "Scipy" in name or name == "lm" else state.value
    assert_allclose(value, 9 * found.cost, rtol=1e-8)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["LevenbergMarquardt", "ScipyLeastSquares"])
def test_the_derivative_of_a_fit(name):
    """Weighted data: the solution moves with the weights."""
    of = lambda w, weights: weights * (w[0] * jnp.exp(-w[1] * TIMES) - SEEN)
    make = {
        "LevenbergMarquardt": lambda: jaxopt.LevenbergMarquardt(of, tol=1e-10),
        "ScipyLeastSquares": lambda: jaxopt.ScipyLeastSquares(fun=of),
    }[name]
    solve = lambda t: make().run(jnp.ones(2), jnp.ones(12).at[3].add(t)).params
    step = 1e-4
    wanted = (solve(step) - solve(-step)) / (2 * step)
    assert_allclose(jax.jacobian(solve)(0.0), wanted, atol=1e-5)


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy", "arctan"])
def test_robust_losses_are_scipys(loss):
    data = np.array(SEEN)
    data[4] += 5.0
    of = lambda w, data: w[0] * jnp.exp(-w[1] * TIMES) - data
    params = jaxopt.ScipyLeastSquares(fun=of, loss=loss).run(jnp.array([2.0, 0.7]), data).params
    plain = lambda w: w[0] * np.exp(-w[1] * TIMES) - data
    found = optimize.least_squares(plain, [2.0, 0.7], loss=loss, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert_allclose(params, found.x, atol=1e-5)


def test_bounds():
    solver = jaxopt.ScipyBoundedLeastSquares(fun=lambda w: w - jnp.array([0.5, 3.0]))
    params, info = solver.run(jnp.zeros(2), (-jnp.ones(2), jnp.ones(2)))
    assert_allclose(params, [0.5, 1.0], atol=1e-8)
    assert bool(info.success)


def test_aux_and_a_loop_of_updates():
    solver = jaxopt.LevenbergMarquardt(lambda w: (w**2 - 2.0, {"w": w}), has_aux=True, tol=1e-10)
    params, state = jnp.array([1.0]), solver.init_state(jnp.array([1.0]))
    for _ in range(12):
        params, state = solver.update(params, state)
    assert_allclose(params, np.sqrt(2), atol=1e-10)
    assert_allclose(state.aux["w"], params)


def test_a_method_that_is_none():
    with pytest.raises(ValueError, match="trf, dogbox, lm"):
        jaxopt.ScipyLeastSquares("newton", fun=residual).run(START, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy", "arctan"])
def test_the_scale_of_a_robust_loss(loss):
    """``f_scale`` belongs to the problem: the solution, its derivative and the value are SciPy's."""
    x, y = np.linspace(0, 1, 12), np.linspace(0, 1, 12) ** 2
    y[3] += 2.0
    line = lambda w, shift: w[0] * x + w[1] - y - shift * x**3

    def fitted(shift):
        tight = dict.fromkeys(("xtol", "ftol", "gtol"), 1e-14)
        return optimize.least_squares(lambda w: line(w, shift), np.zeros(2), loss=loss, f_scale=0.3, **tight)

    solver = jaxopt.ScipyLeastSquares(fun=line, loss=loss, options={"f_scale": 0.3})
    params, state = solver.run(jnp.zeros(2), 0.5)
    assert_allclose(params, fitted(0.5).x, atol=1e-5)
    assert_allclose(state.fun_val, fitted(0.5).cost, rtol=1e-8)
    wanted = (fitted(0.501).x - fitted(0.499).x) / 0.002
    assert_allclose(jax.jacrev(lambda shift: solver.run(jnp.zeros(2), shift).params)(0.5), wanted, rtol=1e-3, atol=1e-4)
