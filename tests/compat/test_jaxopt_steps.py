"""`bilevel.compat.jaxopt`: solvers that take steps, by JAXopt's conventions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.compat import jaxopt
from bilevel.compat.jaxopt import notices, objective, projection, prox
from bilevel.compat.jaxopt.projection import projection_simplex

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
Y = X @ np.array([1.0, -2.0, 0.0, 0.5]) + 0.1 * RNG.normal(size=30)
DATA = (X, Y)
GRAM, RIGHT = X.T @ X / 30, X.T @ Y / 30
L2 = 0.3
SOLUTION = np.linalg.solve(GRAM + L2 * np.eye(4), RIGHT)
DERIVATIVE = np.linalg.solve(GRAM + L2 * np.eye(4), -SOLUTION)
ZEROS = np.zeros(4)

SMOOTH = {
    "GradientDescent": lambda **more: jaxopt.GradientDescent(objective.ridge_regression, **more),
    "BFGS": lambda **more: jaxopt.BFGS(objective.ridge_regression, **more),
    "LBFGS": lambda **more: jaxopt.LBFGS(objective.ridge_regression, **more),
    "NonlinearCG": lambda **more: jaxopt.NonlinearCG(objective.ridge_regression, **more),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_solvers_reach_the_solution_and_its_derivative(name):
    solver = SMOOTH[name](tol=1e-9, maxiter=400)
    params, state = solver.run(ZEROS, L2, data=DATA)
    assert_allclose(params, SOLUTION, atol=1e-8)
    assert float(state.error) <= 1e-9
    assert 0 < int(state.iter_num) < 400
    assert state.status.name == "converged"
    assert float(solver.l2_optimality_error(params, L2, DATA)) <= 1e-9
    found = jax.jacobian(lambda l2: solver.run(ZEROS, l2, DATA).params)(L2)
    assert_allclose(found, DERIVATIVE, atol=1e-7)


def test_a_run_is_a_loop_of_updates():
    solver = SMOOTH["LBFGS"](tol=0.0, maxiter=7)
    state = solver.init_state(ZEROS, L2, DATA)
    params = ZEROS
    for _ in range(7):
        params, state = solver.update(params, state, L2, DATA)
    whole = solver.run(ZEROS, L2, DATA)
    assert_allclose(params, whole.params, atol=1e-12)
    assert int(state.iter_num) == int(whole.state.iter_num) == 7
    assert_allclose(state.value, objective.ridge_regression(params, L2, DATA))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["GradientDescent", "LBFGS"])
def test_steps_are_differentiated_where_implicit_diff_is_off(name):
    solver = SMOOTH[name](tol=1e-10, maxiter=100, implicit_diff=False)
    found = jax.jacobian(lambda l2: solver.run(ZEROS, l2, DATA).params)(L2)
    assert_allclose(found, DERIVATIVE, atol=1e-5)


def test_a_fresh_solver_of_the_same_settings_traces_nothing_again():
    traces = []

    def fun(w, l2, data):
        traces.append(1)
        return objective.ridge_regression(w, l2, data)

    jaxopt.LBFGS(fun).run(ZEROS, L2, DATA)
    before = len(traces)
    jaxopt.LBFGS(fun).run(ZEROS, L2 + 1, DATA)
    assert len(traces) == before
    assert jaxopt.LBFGS(fun) == jaxopt.LBFGS(fun)
    assert jaxopt.LBFGS(fun) != jaxopt.LBFGS(fun, maxiter=3)


def test_jit_and_vmap():
    solver = SMOOTH["LBFGS"](tol=1e-9)
    several = jnp.array([0.1, L2])
    found = jax.jit(jax.vmap(lambda l2: solver.run(ZEROS, l2, DATA)))(several)
    assert_allclose(found.params[1], SOLUTION, atol=1e-8)
    assert found.state.iter_num.shape == (2,)


def test_trees_and_float32():
    tree = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros(2, jnp.float32)}
    fun = lambda w, l2: objective.ridge_regression(jnp.concatenate([w["a"], w["b"]]), l2, DATA).astype(jnp.float32)
    params, state = jaxopt.LBFGS(fun, tol=1e-4).run(tree, jnp.float32(L2))
    assert params["a"].dtype == jnp.float32
    assert_allclose(jnp.concatenate([params["a"], params["b"]]), SOLUTION, atol=1e-3)
    assert state.status.name == "converged"


@pytest.mark.slow
def test_a_gradient_of_the_users_own_and_aux():
    def fun(w, l2, data):
        value = objective.ridge_regression(w, l2, data)
        return (value, {"size": jnp.sum(w)}), jax.grad(objective.ridge_regression)(w, l2, data)

    solver = jaxopt.LBFGS(fun, value_and_grad=True, has_aux=True, tol=1e-9)
    params, state = solver.run(ZEROS, L2, DATA)
    assert_allclose(params, SOLUTION, atol=1e-8)
    assert_allclose(state.aux["size"], SOLUTION.sum(), atol=1e-8)
    found = jax.jacobian(lambda l2: solver.run(ZEROS, l2, DATA).params)(L2)
    assert_allclose(found, DERIVATIVE, atol=1e-7)


@pytest.mark.slow
def test_the_value_in_a_state_has_its_derivative():
    """JAXopt's has none, without a word."""
    solver = SMOOTH["LBFGS"](tol=1e-9)
    found = jax.grad(lambda l2: solver.run(ZEROS, l2, DATA).state.value)(L2)
    assert_allclose(found, 0.5 * SOLUTION @ SOLUTION, rtol=1e-6)


@pytest.mark.slow
def test_the_prox_of_a_lasso():
    solver = jaxopt.ProximalGradient(objective.least_squares, prox.prox_lasso, tol=1e-10, maxiter=3000)
    weight = 0.3
    params = solver.run(ZEROS, weight, data=DATA).params
    slope = GRAM @ params - RIGHT
    on = np.abs(params) > 1e-8
    assert 0 < on.sum() < 4
    assert_allclose(slope[on], -weight * np.sign(params[on]), atol=1e-8)
    found = jax.jacobian(lambda h: solver.run(ZEROS, hyperparams_prox=h, data=DATA).params)(weight)
    assert_allclose(found[on], np.linalg.solve(GRAM[on][:, on], -np.sign(params[on])), atol=1e-6)
    assert not np.any(found[~on])


@pytest.mark.slow
def test_a_projection():
    solver = jaxopt.ProjectedGradient(lambda w, target: 0.5 * jnp.sum((w - target) ** 2), projection_simplex, tol=1e-9)
    target = jnp.array([0.9, 0.4, -1.0, 0.1])
    assert_allclose(solver.run(jnp.ones(4) / 4, 1.0, target).params, projection_simplex(target), atol=1e-8)
    found = jax.jacobian(lambda total: solver.run(jnp.ones(4) / 4, total, target).params)(1.0)
    assert_allclose(found, jax.jacobian(projection.projection_simplex, 1)(target, 1.0), atol=1e-7)


@pytest.mark.slow
def test_a_box():
    solver = jaxopt.LBFGSB(lambda w, target: jnp.sum(jnp.cosh(w - target)), tol=1e-9)
    target = jnp.array([-2.0, 0.5, 3.0])
    solve = lambda upper: solver.run(jnp.zeros(3), (-jnp.ones(3), upper), target).params
    assert_allclose(solve(jnp.ones(3)), [-1.0, 0.5, 1.0], atol=1e-7)
    assert_allclose(jax.jacobian(solve)(jnp.ones(3)), np.diag([0.0, 0.0, 1.0]), atol=1e-7)
    assert_allclose(solver.run(jnp.zeros(3), None, target).params, target, atol=1e-7)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["FixedPointIteration", "AndersonAcceleration"])
def test_fixed_points(name):
    solver = getattr(jaxopt, name)(lambda w, c: 0.5 * jnp.cos(w) + c, tol=1e-11)
    c = jnp.array([0.0, 1.0])
    w, state = solver.run(jnp.zeros(2), c)
    assert_allclose(w, 0.5 * jnp.cos(w) + c, atol=1e-10)
    assert float(state.error) <= 1e-11
    assert_allclose(jax.jacobian(lambda c: solver.run(jnp.zeros(2), c).params)(c), jnp.diag(1 / (1 + 0.5 * jnp.sin(w))))


def test_a_root():
    solver = jaxopt.Broyden(lambda w, c: (w**3 + w - c, jnp.sum(w)), has_aux=True, tol=1e-9)
    params, state = solver.run(jnp.zeros(2), jnp.array([2.0, 10.0]))
    assert_allclose(params, [1.0, 2.0], atol=1e-9)
    assert_allclose(state.aux, 3.0)


def test_optax_on_batches_that_change():
    solver = jaxopt.OptaxSolver(objective.ridge_regression, optax.adam(0.05), maxiter=400)
    batches = ({0: (X[:15], Y[:15]), 1: (X[15:], Y[15:])}[step % 2] for step in range(1000))
    params, state = solver.run_iterator(ZEROS, batches, l2reg=L2)
    assert int(state.iter_num) == 400
    assert_allclose(params, SOLUTION, atol=0.15)


def test_a_step_size_that_is_given():
    fun = lambda w: 0.5 * jnp.sum((w - 1.0) ** 2)
    halving = jaxopt.GradientDescent(fun, stepsize=lambda step: 0.5 / (1 + step), acceleration=False)
    state = halving.init_state(jnp.zeros(2))
    params, state = halving.update(jnp.zeros(2), state)
    params, state = halving.update(params, state)
    assert_allclose(params, 1 - 0.5 * 0.75)
    fixed = jaxopt.GradientDescent(fun, stepsize=0.5, acceleration=False, tol=0.0, maxiter=2)
    assert_allclose(fixed.run(jnp.zeros(2)).params, 0.75)


def test_what_differs_is_said_once(monkeypatch):
    monkeypatch.setattr(notices, "_SAID", set())
    with pytest.warns(notices.MigrationWarning, match=r"LBFGS\(linesearch='backtracking'\).*Leave it out"):
        jaxopt.LBFGS(objective.least_squares, linesearch="backtracking")
    jaxopt.LBFGS(objective.least_squares, linesearch="backtracking")  # silent: warnings are errors in the tests


def test_a_failed_solve_says_so():
    with pytest.warns(RuntimeWarning, match="LBFGS.run ended nonfinite"):
        _, state = jaxopt.LBFGS(lambda w: jnp.sum(jnp.log(w))).run(-jnp.ones(2))
    assert state.status.name == "nonfinite"


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["LBFGS", "GradientDescent"])
def test_complex_params(name):
    """min |A z - b|^2 / 2 over complex z, with a gradient of the user's own too."""
    A = RNG.normal(size=(6, 3)) + 1j * RNG.normal(size=(6, 3))
    b = RNG.normal(size=6) + 1j * RNG.normal(size=6)
    fun = lambda z, b: 0.5 * jnp.sum(jnp.abs(A @ z - b) ** 2)
    start, wanted = jnp.zeros(3, complex), np.linalg.lstsq(A, b)[0]
    solver = getattr(jaxopt, name)(fun, tol=1e-8, maxiter=500)
    params, state = solver.run(start, b)
    assert_allclose(params, wanted, atol=1e-7)
    assert_allclose(solver.optimality_fun(params + 1e-3j, b), jax.grad(fun)(params + 1e-3j, b), atol=1e-9)
    own = getattr(jaxopt, name)(jax.value_and_grad(fun), value_and_grad=True, tol=1e-8, maxiter=500)
    assert_allclose(own.run(start, b).params, wanted, atol=1e-7)
    state = solver.init_state(start, b)
    moved, state = solver.update(start, state, b)
    assert fun(moved, b) < fun(start, b)
    root = jaxopt.Broyden(lambda z, c: z**2 - c, tol=1e-9).run(jnp.array([1.0 + 0.5j]), 2.0j).params
    assert_allclose(root**2, 2.0j, atol=1e-8)


def test_a_search_that_is_another_one_says_so():
    with pytest.warns(notices.MigrationWarning, match="runs the Armijo search"):
        jaxopt.BacktrackingLineSearch(lambda x: x @ x, condition="goldstein")
