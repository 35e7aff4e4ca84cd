"""`bilevel.compat.jaxopt`: blocks, mirrors, brackets, line searches, steps from values, accelerated steps."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.compat import jaxopt
from bilevel.compat.jaxopt import objective, projection, prox

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
Y = X @ np.array([1.0, -2.0, 0.0, 0.5]) + 0.1 * RNG.normal(size=30)
DATA = (X, Y)
L2 = 0.3
SOLUTION = np.linalg.solve(X.T @ X / 30 + L2 * np.eye(4), X.T @ Y / 30)
DERIVATIVE = np.linalg.solve(X.T @ X / 30 + L2 * np.eye(4), -SOLUTION)


@pytest.mark.slow
def test_blocks_of_a_lasso():
    blocks = jaxopt.BlockCoordinateDescent(objective.least_squares, prox.prox_lasso, tol=1e-9)
    whole = jaxopt.ProximalGradient(objective.least_squares, prox.prox_lasso, tol=1e-10, maxiter=3000)
    solve = lambda solver, weight: solver.run(np.zeros(4), weight, DATA).params
    assert_allclose(solve(blocks, 0.3), solve(whole, 0.3), atol=1e-8)
    found, wanted = (jax.jacobian(lambda h, s=s: solve(s, h))(0.3) for s in (blocks, whole))
    assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.slow
def test_blocks_of_a_support_vector_machine():
    labels = np.eye(3)[RNG.integers(0, 3, 30)]
    simplex = prox.make_prox_from_projection(projection.projection_simplex)
    solver = jaxopt.BlockCoordinateDescent(objective.multiclass_linear_svm_dual, simplex, tol=1e-7, maxiter=2000)
    start = np.full((30, 3), 1 / 3)
    beta, state = solver.run(start, None, 5.0, (X, labels))
    slope = jax.grad(objective.multiclass_linear_svm_dual)(beta, 5.0, (X, labels))
    moved = jax.vmap(projection.projection_simplex)(beta - slope)
    assert_allclose(moved, beta, atol=1e-6)
    assert float(state.error) <= 1e-7


def test_blocks_need_a_linear_map():
    with pytest.raises(AttributeError, match="CompositeLinearFunction"):
        jaxopt.BlockCoordinateDescent(cast(Any, objective.ridge_regression), prox.prox_lasso)


@pytest.mark.parametrize("stepsize", [0.5, lambda step: 2.0 / jnp.sqrt(step + 4.0)])
def test_mirror_descent(stepsize):
    step = jaxopt.MirrorDescent.make_projection_grad(lambda y, _: jax.nn.softmax(y), jnp.log)
    fun = lambda w, target: 0.5 * jnp.sum((w - target) ** 2)
    solver = jaxopt.MirrorDescent(fun, step, stepsize, maxiter=2000, tol=1e-8)
    target = jnp.array([0.6, 0.4, 0.2])
    solve = lambda target: solver.run(jnp.ones(3) / 3, None, target).params
    assert_allclose(solve(target), target - 0.2 / 3, atol=1e-6)
    assert_allclose(jax.jacobian(solve)(target), np.eye(3) - 1 / 3, atol=1e-5)


@pytest.mark.slow
def test_a_bracket():
    solver = jaxopt.Bisection(lambda x, c: x**3 - x - c, 1.0, 4.0)
    root, state = solver.run(None, 2.0)
    assert_allclose(root**3 - root, 2.0, atol=1e-12)
    assert float(state.error) < 1e-12
    assert_allclose(jax.grad(lambda c: solver.run(None, c).params)(2.0), 1 / (3 * root**2 - 1))
    assert_allclose(jax.jit(jax.vmap(lambda c: solver.run(None, c).params))(jnp.array([2.0, 6.0]))[0], root)
    with pytest.raises(ValueError, match="same sign"):
        solver.run(None, -5.0)
    assert np.isnan(jax.jit(lambda c: solver.run(None, c).params)(-5.0))
    falling = jaxopt.Bisection(lambda x, c: c - x, 0.0, 4.0)
    assert_allclose(falling.run(None, 1.5).params, 1.5)


SEARCHES = {
    "armijo": lambda fun: jaxopt.BacktrackingLineSearch(fun, condition="armijo", max_stepsize=10.0),
    "backtracking": lambda fun: jaxopt.BacktrackingLineSearch(fun, max_stepsize=100.0),
    "zoom": jaxopt.ZoomLineSearch,
    "hager-zhang": lambda fun: jaxopt.HagerZhangLineSearch(fun, max_stepsize=100.0),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("first", [1e-3, 1.0, 50.0])
def test_line_searches(name, first):
    fun = lambda w, scale: jnp.sum(scale * w**4 - w**2)
    start, scale = jnp.array([2.0, -1.0]), jnp.array([1.0, 3.0])
    step, state = SEARCHES[name](fun).run(first, start, fun_args=[scale])
    slope = -float(jnp.sum(jax.grad(fun)(start, scale) ** 2))
    assert not bool(state.failed)
    assert_allclose(state.params, start - step * jax.grad(fun)(start, scale))
    c1 = 0.1 if name == "hager-zhang" else 1e-4
    assert float(state.value) <= fun(start, scale) + c1 * step * slope + 1e-10
    after = -float(jnp.vdot(jax.grad(fun)(state.params, scale), jax.grad(fun)(start, scale)))
    if name != "armijo":
        assert after >= 0.9 * slope
    if name in ("zoom", "backtracking"):
        assert abs(after) <= -0.9 * slope


def test_a_direction_uphill_fails_where_it_starts():
    step, state = jaxopt.ZoomLineSearch(lambda w: jnp.sum(w**2)).run(1.0, jnp.ones(2), descent_direction=jnp.ones(2))
    assert bool(state.failed)
    assert float(step) == 0.0
    assert_allclose(state.params, 1.0)


@pytest.mark.parametrize("name", ["PolyakSGD", "ArmijoSGD"])
def test_steps_from_values(name):
    fun = lambda w, data: 0.5 * jnp.mean((data[0] @ w - data[1]) ** 2)  # a model that fits: its least value is 0
    exact = jnp.array([1.0, -2.0, 0.0, 0.5])
    solver = getattr(jaxopt, name)(fun, tol=1e-8, maxiter=3000, momentum=0.3)
    data = (X, X @ exact)
    params, state = solver.run(np.zeros(4), data)
    assert_allclose(params, exact, atol=1e-6)
    assert float(state.stepsize) > 0
    halves = [(X[:15], data[1][:15]), (X[15:], data[1][15:])]
    params, _ = solver.run_iterator(np.zeros(4), (halves[step % 2] for step in range(400)))
    assert_allclose(params, exact, atol=1e-3)


@pytest.mark.slow
def test_the_steps_of_another_solver_are_accelerated():
    plain = jaxopt.GradientDescent(objective.ridge_regression, stepsize=0.3, acceleration=False, tol=1e-9, maxiter=500)
    solver = jaxopt.AndersonWrapper(plain)
    params, state = solver.run(np.zeros(4), L2, DATA)
    assert_allclose(params, SOLUTION, atol=1e-8)
    assert int(state.iter_num) < 0.5 * int(plain.run(np.zeros(4), L2, DATA).state.iter_num)
    found = jax.jacobian(lambda l2: solver.run(np.zeros(4), l2, DATA).params)(L2)
    assert_allclose(found, DERIVATIVE, atol=1e-7)


@pytest.mark.slow
def test_iterative_refinement():
    A = RNG.normal(size=(5, 5)) + 5 * np.eye(5)
    b = RNG.normal(size=5)
    solver = jaxopt.IterativeRefinement(tol=1e-11)
    x, state = solver.run(None, A, b, A + 0.1)
    assert_allclose(x, np.linalg.solve(A, b), atol=1e-10)
    assert 1 < int(state.iter_num) <= 10
    assert_allclose(jax.jacobian(lambda b: solver.run(None, A, b, A + 0.1).params)(b), np.linalg.inv(A), atol=1e-8)


def test_a_loop_with_derivatives():
    halve = lambda x, **more: jaxopt.loop.while_loop(lambda x: x > 1.0, lambda x: 0.5 * x, x, maxiter=20, **more)
    assert float(halve(9.0)) == float(halve(9.0, unroll=True)) == 0.5625
    assert float(jax.grad(lambda x: halve(x, unroll=True))(9.0)) == 1 / 16
    assert float(jaxopt.cond.cond(True, lambda x: x, lambda x: -x, 3.0)) == 3.0
