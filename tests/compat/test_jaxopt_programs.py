"""`bilevel.compat.jaxopt`: quadratic programs, SciPy's solvers, isotonic regression, perturbations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.compat import jaxopt

Q = np.array([[3.0, 1.0], [1.0, 2.0]])
C = np.array([-1.0, -4.0])
A, B = np.array([[1.0, 1.0]]), np.array([1.0])
G, H = np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([0.9, 5.0])
EQUAL = np.array([0.0, 1.0])  # of the equality alone; with y <= 0.9 it is (0.1, 0.9)


@pytest.mark.slow
def test_a_program_with_equalities():
    solver = jaxopt.EqualityConstrainedQP()
    sol, state = solver.run(params_obj=(Q, C), params_eq=(A, B))
    assert_allclose(Q @ sol.primal + C + A.T @ sol.dual_eq, 0, atol=1e-10)
    assert_allclose(A @ sol.primal, B)
    assert state.status.name == "converged"
    assert float(solver.l2_optimality_error(sol, (Q, C), (A, B))) < 1e-9


@pytest.mark.parametrize("make", [jaxopt.OSQP, jaxopt.CvxpyQP, lambda: jaxopt.OSQP(tol=1e-6)])
def test_a_program_with_both(make):
    solver = make()
    solve = lambda h: solver.run(None, (Q, C), (A, B), (G, h)).params.primal
    assert_allclose(solve(H), [0.1, 0.9], atol=1e-9)
    assert_allclose(jax.jacobian(solve)(H), [[-1.0, 0.0], [1.0, 0.0]], atol=1e-8)
    sol = solver.run(None, (Q, C), (A, B), (G, H)).params
    assert float(solver.l2_optimality_error(sol, (Q, C), (A, B), (G, H))) < 1e-8


def test_products_trees_and_functions():
    tree = {"a": jnp.array([-1.0]), "b": jnp.array([-4.0])}
    flat = lambda x: jnp.concatenate([x["a"], x["b"]])
    products = jaxopt.OSQP(
        matvec_Q=lambda matrix, x: (lambda v: {"a": v[:1], "b": v[1:]})(matrix @ flat(x)),
        matvec_A=lambda matrix, x: matrix @ flat(x),
        matvec_G=lambda matrix, x: matrix @ flat(x),
    )
    x = products.run(None, (Q, tree), (A, B), (G, H)).params.primal
    assert_allclose(flat(x), [0.1, 0.9], atol=1e-9)
    stated = jaxopt.OSQP(fun=lambda x, c: 0.5 * x @ (Q @ x) + c @ x)
    sol = stated.run(stated.init_params(jnp.zeros(2), C, (A, B), (G, H)), C, (A, B), (G, H)).params
    assert_allclose(sol.primal, [0.1, 0.9], atol=1e-9)


@pytest.mark.slow
def test_rows_with_two_bounds():
    solver = jaxopt.BoxOSQP()
    data = {"params_obj": (Q, C), "params_eq": np.eye(2), "params_ineq": (-np.ones(2), np.array([1.0, 1.0]))}
    sol, state = solver.run(**data)
    x, z = sol.primal
    assert_allclose(x, [0.0, 1.0], atol=1e-9)
    assert_allclose(z, x)
    assert int(state.status) == jaxopt.BoxOSQP.SOLVED
    assert float(solver.l2_optimality_error(sol, **data)) < 1e-8
    box, _ = jaxopt.BoxCDQP().run(np.zeros(2), (Q, C), (-np.ones(2), np.ones(2)))
    assert_allclose(box, x, atol=1e-9)


def test_an_empty_program_says_so():
    _, state = jaxopt.BoxOSQP().run(
        None, (Q, C), np.array([[1.0, 0.0], [1.0, 0.0]]), (np.array([1.0, -3.0]), np.array([2.0, -2.0]))
    )
    assert int(state.status) == jaxopt.BoxOSQP.PRIMAL_INFEASIBLE


@pytest.mark.slow
def test_scipys_minimisers_and_root_finders():
    fun = lambda w, target: jnp.sum(jnp.cosh(w - target))
    target = jnp.array([-2.0, 0.5])
    solver = jaxopt.ScipyMinimize(fun=fun, method="L-BFGS-B")
    solve = lambda target: solver.run(jnp.zeros(2), target).params
    assert_allclose(solve(target), target, atol=1e-5)
    assert_allclose(jax.jacobian(solve)(target), np.eye(2), atol=1e-5)
    info = solver.run(jnp.zeros(2), target).state
    assert bool(info.success)
    assert_allclose(info.fun_val, 2.0, rtol=1e-8)
    bounded = jaxopt.ScipyBoundedMinimize(fun=fun, tol=1e-6)
    assert_allclose(bounded.run(jnp.zeros(2), (-jnp.ones(2), jnp.ones(2)), target).params, [-1.0, 0.5], atol=1e-5)
    root = jaxopt.ScipyRootFinding(optimality_fun=lambda w, c: w**3 + w - c, tol=1e-8)
    assert_allclose(root.run(jnp.ones(2), jnp.array([2.0, 10.0])).params, [1.0, 2.0], atol=1e-7)


def test_isotonic_regression_between_bounds():
    y = np.array([1.0, 3.0, 2.0, 4.0])
    pav = jaxopt.isotonic.isotonic_l2_pav
    assert_allclose(pav(y), [1.0, 2.5, 2.5, 4.0])
    assert_allclose(pav(y, y_min=1.5, y_max=3.0), [1.5, 2.5, 2.5, 3.0])
    assert_allclose(pav(y[::-1], increasing=False), [4.0, 2.5, 2.5, 1.0])
    assert_allclose(pav(y[::-1], 1.5, 3.0, False), [3.0, 2.5, 2.5, 1.5])
    assert_allclose(jax.jacobian(pav, 2)(y, 1.5, 3.0), [0.0, 0.0, 0.0, 1.0])


@pytest.mark.slow
def test_perturbations():
    argmax = lambda x: jax.nn.one_hot(jnp.argmax(x), x.size)
    x, key = jnp.array([0.3, -0.2, 0.1]), jax.random.key(0)
    soft = jaxopt.perturbations.make_perturbed_argmax(argmax, num_samples=60_000, sigma=0.5)
    softmax = lambda x: jax.nn.softmax(x / 0.5)
    assert_allclose(soft(x, key), softmax(x), atol=1e-2)
    for control in (False, True):
        soft = jaxopt.perturbations.make_perturbed_argmax(argmax, 60_000, 0.5, control_variate=control)
        assert_allclose(jax.jacobian(soft)(x, key), jax.jacobian(softmax)(x), atol=3e-2)
    highest = jaxopt.perturbations.make_perturbed_max(argmax, num_samples=60_000, sigma=0.5)
    assert_allclose(highest(x, key), 0.5 * (jax.nn.logsumexp(x / 0.5) + np.euler_gamma), atol=1e-2)
    assert_allclose(jax.grad(highest)(x, key), softmax(x), atol=1e-2)
    step = jaxopt.perturbations.make_perturbed_fun(jnp.sign, 60_000, 0.5, jaxopt.perturbations.Normal())
    assert_allclose(jax.grad(step)(0.0, key), 2 / np.sqrt(2 * np.pi) / 0.5, atol=3e-2)
