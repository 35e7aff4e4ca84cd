"""Conventions that scripts written for JAXopt rely on: how solvers are started, resumed, subclassed and searched."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.compat import jaxopt
from bilevel.compat.jaxopt import base, implicit_diff, linear_solve, objective, projection

RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(10, 3)), RNG.normal(size=10)
SAYS = pytest.mark.filterwarnings("ignore::bilevel.compat.jaxopt.notices.MigrationWarning")
MATRIX, RIGHT = RNG.normal(size=(4, 4)), RNG.normal(size=4)


def rosenbrock(w):
    return 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2


def ridge_normal(matrix, ridge):
    return jnp.linalg.solve(matrix.T @ matrix + ridge * jnp.eye(4), matrix.T @ RIGHT)


def test_the_ridge_of_normal_equations_is_added_to_them():
    solved = lambda matrix: linear_solve.solve_normal_cg(lambda x: matrix @ x, RIGHT, ridge=0.3)
    assert_allclose(solved(MATRIX), ridge_normal(MATRIX, 0.3), rtol=1e-8)
    wanted = jax.jacobian(ridge_normal)(MATRIX, 0.3)
    assert_allclose(jax.jacobian(solved)(jnp.asarray(MATRIX)), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_the_ridge_of_normal_equations_in_a_derivative():
    solve = functools.partial(linear_solve.solve_normal_cg, ridge=0.3)
    root = implicit_diff.custom_root(lambda w, b: MATRIX @ w - b, solve=solve)(lambda w, b: jnp.linalg.solve(MATRIX, b))
    wanted = MATRIX @ np.linalg.inv(MATRIX.T @ MATRIX + 0.3 * np.eye(4))  # the adjoint system has the matrix MATRIX'
    assert_allclose(jax.jacrev(root, 1)(None, RIGHT).T, wanted, rtol=1e-6)


def test_a_condition_with_the_signature_of_another_function():
    """By `functools.wraps` and as ``reference_signature`` alike, arguments given by name are placed."""
    gradient = jax.grad(objective.ridge_regression)
    solver = lambda init_params, l2reg, data: ridge(l2reg)
    ridge = lambda l2reg: jnp.linalg.solve(X.T @ X / 10 + l2reg * jnp.eye(3), X.T @ Y / 10)
    wanted = jax.jacobian(ridge)(0.5)

    def stepped(params, *args):
        return params - gradient(params, *args)

    reference = lambda params, l2reg, data: params
    for solution in (
        implicit_diff.custom_fixed_point(functools.wraps(reference)(stepped))(solver),
        implicit_diff.custom_fixed_point(stepped, reference_signature=reference)(solver),
    ):
        found = jax.jacrev(solution, argnums=1)(None, 0.5, data=(X, Y))
        assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("search", [jaxopt.ZoomLineSearch, jaxopt.BacktrackingLineSearch, jaxopt.HagerZhangLineSearch])
def test_a_search_of_complex_params_is_that_of_their_parts(search):
    weights = jnp.array([[1.0, -2.0], [3.0, 4.0], [-4 + 2j, 5 - 3j]])
    whole = lambda z: jnp.sum(jnp.abs(weights @ z) ** 1.5)
    parts = lambda pair: whole(pair[0] + 1j * pair[1])
    z = jnp.array([1 - 1j, 1j])
    step, state = search(whole).run(0.1, z)
    wanted, _ = search(parts).run(0.1, jnp.stack([z.real, z.imag]))
    assert_allclose(step, wanted, rtol=1e-12)
    assert_allclose(state.grad, jax.grad(whole)(state.params), rtol=1e-12)
    assert_allclose(state.params, z - step * jnp.conj(jax.grad(whole)(z)), rtol=1e-12)


def test_a_search_is_done_where_its_condition_holds():
    square = lambda w: jnp.vdot(w, w)
    start, direction = jnp.array([-60.0, 0.0]), jnp.array([1.0, 0.0])  # the strong Wolfe steps are 30 to 90
    search = functools.partial(jaxopt.ZoomLineSearch, square, c2=0.5)
    step, state = search().run(1.0, start, descent_direction=direction)
    assert 30 <= step <= 90 and state.done and not state.failed and state.error == 0
    assert state.num_grad_eval == state.num_fun_eval
    for short in (search(maxiter=2), search(max_stepsize=10.0)):
        step, state = short.run(1.0, start, descent_direction=direction)
        assert 0 < step < 30 and square(state.params) < square(start)
        assert state.failed and not state.done and state.error > 0


def test_a_search_that_leads_to_infinity_is_not_done():
    _, state = jaxopt.ZoomLineSearch(jnp.log).run(1.0, 1.0, descent_direction=-2.0)
    assert not (state.done and jnp.isinf(state.value))


@SAYS
def test_a_function_that_cannot_be_traced():
    """``jit=False`` runs it in Python; without that it is refused, as JAXopt refuses it."""
    wave = lambda x: (-np.sin(10 * x), -10 * np.cos(10 * x))
    assert jaxopt.ZoomLineSearch(wave, value_and_grad=True, jit=False).run(1.0, 1.0)[1].done
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jaxopt.ZoomLineSearch(wave, value_and_grad=True).run(1.0, 1.0)


@SAYS
@pytest.mark.slow
def test_a_solve_of_a_function_that_cannot_be_traced():
    bowl = lambda w: (np.sum((np.asarray(w) - 1.0) ** 2), 2 * (np.asarray(w) - 1.0))
    found = jaxopt.LBFGS(bowl, value_and_grad=True, jit=False).run(jnp.zeros(2)).params
    assert_allclose(found, 1.0, atol=1e-3)


def test_a_run_is_resumed_from_its_result():
    """Ten steps and ten more with the memory of the first are twenty steps."""
    solver = lambda maxiter: jaxopt.LBFGS(rosenbrock, maxiter=maxiter, tol=1e-12)
    first = solver(10).run(jnp.zeros(2))
    assert_allclose(solver(10).run(first).params, solver(20).run(jnp.zeros(2)).params, rtol=1e-10)
    params, _ = solver(10).update(first, solver(10).init_state(first))
    assert rosenbrock(params) < rosenbrock(first.params)
    plain = jaxopt.GradientDescent(rosenbrock, maxiter=10)  # keeps no memory, as in JAXopt
    assert_allclose(plain.run(first).params, plain.run(first.params).params, rtol=1e-12)


@pytest.mark.slow
def test_complex_params_are_resumed():
    distance = lambda z, target: jnp.sum(jnp.abs(z - target) ** 2 + jnp.abs(z) ** 4)
    solver = lambda maxiter: jaxopt.LBFGS(distance, maxiter=maxiter, tol=1e-14)
    start, target = jnp.zeros(2, complex), jnp.array([1 + 2j, -1j])
    wanted = solver(6).run(start, target).params
    assert_allclose(solver(3).run(solver(3).run(start, target), target).params, wanted, rtol=1e-10)


def test_a_state_before_the_arguments_are_known():
    solver = jaxopt.ProjectedGradient(objective.least_squares, projection.projection_box)
    data, start = (X, Y), jnp.full(3, 0.5)
    blank = solver.init_state(start)
    assert jnp.isinf(blank.error)
    params, state, update = start, blank, jax.jit(solver.update)
    for _ in range(200):
        params, state = update(params, state, hyperparams_proj=(0.0, 1.0), data=data)
    assert_allclose(params, solver.run(start, (0.0, 1.0), data=data).params, atol=1e-3)
    assert_allclose(state.value, objective.least_squares(params, data), rtol=1e-12)
    assert jax.tree.structure(blank) == jax.tree.structure(state)
    cosine = jaxopt.FixedPointIteration(lambda x, shift: jnp.cos(x) + shift)
    assert_allclose(cosine.update(1.0, cosine.init_state(1.0), 0.5).params, np.cos(1.0) + 0.5)


class Count(NamedTuple):
    iter_num: Any
    error: Any


@dataclasses.dataclass(eq=False)
class Halving(base.IterativeSolver):
    """Newton's steps to the root of w^2 = theta, as a user may state a solver."""

    maxiter: int = 50
    tol: float = 1e-12
    implicit_diff: bool = True

    def init_state(self, init_params, theta):
        return Count(0, jnp.inf)

    def update(self, params, state, theta):
        params = 0.5 * (params + theta / params)
        return base.OptStep(params, Count(state.iter_num + 1, jnp.abs(self.optimality_fun(params, theta))))

    def optimality_fun(self, params, theta):
        return params**2 - theta


@pytest.mark.parametrize("implicit", [True, False])
def test_a_solver_of_ones_own(implicit):
    solver = Halving(implicit_diff=implicit)
    params, state = solver.run(1.0, 4.0)
    assert_allclose(params, 2.0, rtol=1e-12)
    assert state.iter_num < 10
    assert_allclose(jax.grad(lambda theta: solver.run(1.0, theta).params)(4.0), 0.25, rtol=1e-8)
    assert Halving(maxiter=1).run(1.0, theta=4.0).state.iter_num == 1
    assert solver == Halving(implicit_diff=implicit) and hash(solver) == hash(Halving(implicit_diff=implicit))


def test_what_is_an_iterative_solver():
    lists = (jaxopt.LBFGS(rosenbrock), jaxopt.BoxOSQP(), jaxopt.BoxCDQP(), jaxopt.Bisection(rosenbrock, 0, 1))
    assert all(isinstance(one, base.IterativeSolver) for one in lists)
    assert isinstance(jaxopt.PolyakSGD(rosenbrock), base.StochasticSolver)


def test_programs_are_solved_by_one_update():
    Q, c = jnp.eye(2), jnp.array([-2.0, 0.5])
    sides = (jnp.zeros(2), jnp.ones(2))
    cube = jaxopt.BoxCDQP()
    params, state = cube.update(jnp.zeros(2), cube.init_state(jnp.zeros(2)), params_obj=(Q, c), params_ineq=sides)
    assert_allclose(params, [1.0, 0.0], atol=1e-8)
    box = jaxopt.BoxOSQP()
    solution, state = box.update(None, box.init_state(None), (Q, c), jnp.eye(2), sides)
    assert_allclose(solution.primal[0], [1.0, 0.0], atol=1e-8)
    assert state.status == jaxopt.BoxOSQP.SOLVED


def test_two_numbers_of_steps_are_refused():
    with pytest.raises(ValueError, match="maxiter in options"):
        jaxopt.ScipyMinimize(fun=rosenbrock, options={"maxiter": 100})


def test_a_callback_sees_each_step():
    seen = []
    solver = jaxopt.ScipyMinimize(fun=lambda tree: rosenbrock(tree["w"]), callback=lambda tree: seen.append(tree["w"]))
    found, state = solver.run({"w": jnp.zeros(2)})
    assert state.success and len(seen) > 5
    assert_allclose(seen[-1], found["w"], rtol=1e-12)


def test_scipy_is_not_started_again_as_often_as_it_may_take_steps():
    """A tolerance that rounding does not allow ends after a few runs."""
    solver = jaxopt.ScipyMinimize(fun=objective.least_squares, tol=1e-30, maxiter=500)
    assert solver.run(jnp.zeros(3), data=(X, Y)).state.iter_num <= 5


def test_names_of_scipys_methods_in_small_letters():
    solver = jaxopt.ScipyBoundedMinimize(fun=objective.least_squares, method="l-bfgs-b")
    found = solver.run(jnp.zeros(3), (jnp.zeros(3), jnp.full(3, jnp.inf)), data=(X, Y)).params
    wanted = jaxopt.LBFGSB(objective.least_squares, tol=1e-8).run(
        jnp.zeros(3), (jnp.zeros(3), jnp.full(3, jnp.inf)), data=(X, Y)
    )
    assert_allclose(found, wanted.params, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("acceleration", [True, False])
def test_both_modes_go_through_the_steps(acceleration):
    """Ten steps are not the solution, so their derivative is not the implicit one."""
    solver = jaxopt.GradientDescent(
        objective.ridge_regression, maxiter=10, tol=0.0, stepsize=0.1, acceleration=acceleration, implicit_diff=False
    )
    taken = lambda l2reg: solver.run(jnp.zeros(3), l2reg, data=(X, Y)).params
    forward, reverse = jax.jacfwd(taken)(0.5), jax.jacrev(taken)(0.5)
    assert_allclose(forward, reverse, rtol=1e-9)
    assert_allclose(jax.jit(jax.jacfwd(taken))(0.5), reverse, rtol=1e-9)
    differences = (taken(0.5 + 1e-6) - taken(0.5 - 1e-6)) / 2e-6
    assert_allclose(forward, differences, rtol=1e-4, atol=1e-7)


def test_an_unrolled_loop_has_both_modes():
    power = lambda x: jaxopt.loop.while_loop(lambda y: y < 50, lambda y: y * x, 1.0, maxiter=9, unroll=True)
    assert_allclose([power(3.0), jax.grad(power)(3.0), jax.jacfwd(power)(3.0)], [81, 108, 108])


@pytest.mark.parametrize("factor", [0.5, 0.8])
def test_steps_by_value_reach_the_precision_of_gradients(factor):
    """In single precision the values of a loss do not tell steps apart within a gradient of 1e-3; slopes do."""
    features = jnp.asarray(2 * RNG.normal(size=(200, 10)), jnp.float32)
    data, start = (features, jnp.asarray(RNG.integers(0, 3, 200))), (jnp.zeros((10, 3), jnp.float32), jnp.zeros(3, "f"))
    solver = jaxopt.ArmijoSGD(
        objective.l2_multiclass_logreg_with_intercept, aggressiveness=0.7, decrease_factor=factor, maxiter=500, tol=2e-5
    )
    assert solver.run(start, 1.0, data).state.error <= 2e-5
