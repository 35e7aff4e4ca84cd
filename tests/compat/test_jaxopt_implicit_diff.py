"""`bilevel.compat.jaxopt.implicit_diff` and `linear_solve`: derivatives of any solver's solution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.compat import jaxopt
from bilevel.compat.jaxopt import implicit_diff, linear_solve, objective
from bilevel.linear_solve import CG, Damped, Dense

RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(20, 3)), RNG.normal(size=20)
GRAM, RIGHT = X.T @ X / 20, X.T @ Y / 20
SOLUTION = np.linalg.solve(GRAM + 0.5 * np.eye(3), RIGHT)
DERIVATIVE = np.linalg.solve(GRAM + 0.5 * np.eye(3), -SOLUTION)
SOLVES = ("cg", "normal_cg", "gmres", "bicgstab", "lu", "inv", "qr", "cholesky", "iterative_refinement")


def ridge(params, l2reg, data):
    return jnp.linalg.solve(GRAM + l2reg * jnp.eye(3), RIGHT)


@pytest.mark.sample(1)
@pytest.mark.parametrize("solve", [None, linear_solve.solve_cg, functools.partial(linear_solve.solve_gmres, tol=1e-9)])
def test_custom_root(solve):
    solver = implicit_diff.custom_root(jax.grad(objective.ridge_regression), solve=solve)(ridge)
    assert_allclose(jax.jacobian(solver, 1)(None, 0.5, (X, Y)), DERIVATIVE, atol=1e-8)
    assert_allclose(jax.jacfwd(solver, 1)(None, 0.5, (X, Y)), DERIVATIVE, atol=1e-8)


@pytest.mark.slow
def test_a_solve_of_the_users_own():
    dense = lambda matvec, b: jnp.linalg.solve(jax.jacobian(matvec)(b), b)
    solver = implicit_diff.custom_root(jax.grad(objective.ridge_regression), solve=dense)(ridge)
    assert_allclose(jax.jacobian(solver, 1)(None, 0.5, (X, Y)), DERIVATIVE, atol=1e-8)
    run = jaxopt.LBFGS(objective.ridge_regression, tol=1e-10, implicit_diff_solve=dense).run
    assert_allclose(jax.jacobian(lambda l2: run(np.zeros(3), l2, (X, Y)).params)(0.5), DERIVATIVE, atol=1e-7)


@pytest.mark.slow
def test_a_signature_from_elsewhere_and_aux():
    root = implicit_diff.custom_root(
        lambda *args, **kwargs: jax.grad(objective.ridge_regression)(*args, **kwargs),
        has_aux=True,
        reference_signature=objective.ridge_regression,
    )
    solver = root(lambda init, l2reg, data: (ridge(init, l2reg, data), {"steps": 3}))
    found = jax.jacobian(lambda l2: solver(None, data=(X, Y), l2reg=l2)[0])(0.5)
    assert_allclose(found, DERIVATIVE, atol=1e-8)


@pytest.mark.slow
def test_custom_fixed_point():
    fixed_point = implicit_diff.custom_fixed_point(lambda w, theta: 0.5 * (w + theta / w))
    assert_allclose(jax.grad(fixed_point(lambda init, theta: jnp.sqrt(theta)), 1)(1.0, 4.0), 0.25)


@pytest.mark.slow
def test_root_jvp_and_root_vjp():
    F = jax.grad(objective.ridge_regression)
    moved = implicit_diff.root_jvp(lambda w, l2: F(w, l2, (X, Y)), SOLUTION, (0.5,), (1.0,), linear_solve.solve_cg)
    assert_allclose(moved, DERIVATIVE, atol=1e-8)
    (pulled,) = implicit_diff.root_vjp(lambda w, l2: F(w, l2, (X, Y)), SOLUTION, (0.5,), np.ones(3))
    assert_allclose(pulled, DERIVATIVE.sum(), atol=1e-8)


@pytest.mark.parametrize("name", SOLVES)
def test_the_linear_solvers(name):
    solve = getattr(linear_solve, f"solve_{name}")
    of = lambda l2: solve(lambda v: GRAM @ v + l2 * v, RIGHT)
    assert_allclose(of(0.5), SOLUTION, atol=1e-8)
    assert_allclose(jax.grad(lambda l2: of(l2).sum())(0.5), DERIVATIVE.sum(), atol=1e-7)


def test_the_solvers_that_names_stand_for():
    assert linear_solve.linear_solver(linear_solve.solve_cg) == CG()
    assert linear_solve.linear_solver(functools.partial(linear_solve.solve_cg, maxiter=5, tol=1e-3)) == CG(1e-3, 5)
    damped = functools.partial(linear_solve.solve_lu, ridge=1e-2)
    assert linear_solve.linear_solver(damped) == Damped(Dense(), 1e-2)


@pytest.mark.slow
def test_a_rectangular_system_takes_its_unknown_from_init():
    found = linear_solve.solve_normal_cg(lambda v: X @ v, Y, init=np.zeros(3))
    assert_allclose(found, np.linalg.lstsq(X, Y)[0], atol=1e-8)
