"""The implicit function theorem against closed forms: modes x problems x precisions, and what surrounds them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.random.default_rng(1).normal(size=12)


class Problem(NamedTuple):
    """A condition, a solver of it without derivatives, its closed form, and a point."""

    residual: Any
    closed_form: Any
    theta: Any
    solve: Any


def data(like):
    return jnp.asarray(X, like.dtype), jnp.asarray(Y, like.dtype)


def ridge_loss(w, theta):
    x, y = data(w)
    return 0.5 * jnp.sum((x @ w - y) ** 2) + 0.5 * jnp.sum(jnp.exp(theta) * w**2)


def ridge(theta):
    x, y = data(theta)
    return jnp.linalg.solve(x.T @ x + jnp.diag(jnp.exp(theta)), x.T @ y)


def cubic(w, theta):
    return {"a": w["a"] ** 3 - theta["p"] * theta["q"], "b": (w["b"][0] - w["a"] * theta["p"],)}


def cubic_solution(theta):
    a = jnp.cbrt(theta["p"] * theta["q"])
    return {"a": a, "b": (a * theta["p"],)}


ROTATION = np.array([[0.3, -0.4], [0.5, 0.2]])


def affine(w, theta):
    return jnp.tanh(theta) + jnp.asarray(ROTATION, w.dtype) @ w


def affine_solution(theta):
    return jnp.linalg.solve(jnp.eye(2) - jnp.asarray(ROTATION, theta.dtype), jnp.tanh(theta))


def as_root(fixed_point):
    return lambda w, theta: fixed_point(w, theta) - w


PROBLEMS = {
    "ridge_cg": Problem(bl.optimality.Stationary(ridge_loss), ridge, np.linspace(-1, 1, 4), bl.CG()),
    "ridge_dense": Problem(bl.optimality.Stationary(ridge_loss), ridge, np.linspace(-1, 1, 4), bl.Dense()),
    "ridge_plain_cg": Problem(lambda w, t: jax.grad(ridge_loss)(w, t), ridge, np.linspace(-1, 1, 4), bl.CG()),
    "pytree": Problem(cubic, cubic_solution, {"p": 2.0, "q": 3.0}, bl.AutoLinear()),
    "scalar": Problem(lambda w, t: w**2 - t, jnp.sqrt, 4.0, bl.GMRES()),
    "nonsymmetric": Problem(as_root(affine), affine_solution, np.array([0.2, -0.7]), bl.GMRES()),
    "nonsymmetric_bicgstab": Problem(as_root(affine), affine_solution, np.array([0.2, -0.7]), bl.BiCGStab()),
    "negative_definite": Problem(lambda w, t: -jax.grad(ridge_loss)(w, t), ridge, np.linspace(-1, 1, 4), bl.CG()),
}


def along(theta):
    return jax.tree.map(
        lambda leaf: jnp.cos(1.0 + jnp.arange(np.size(leaf), dtype=jnp.result_type(leaf))).reshape(np.shape(leaf)),
        theta,
    )


def scalar_of(f):
    return lambda theta: sum(jnp.sum(jnp.sin(1.0 + leaf)) for leaf in jax.tree.leaves(f(theta)))


MODES = {
    "value": lambda f, theta: f(theta),
    "jvp": lambda f, theta: jax.jvp(f, (theta,), (along(theta),))[1],
    "vjp": lambda f, theta: jax.vjp(f, theta)[1](along(f(theta))),
    "jacfwd": lambda f, theta: jax.jacfwd(f)(theta),
    "jacrev": lambda f, theta: jax.jacrev(f)(theta),
    "hessian": lambda f, theta: jax.hessian(scalar_of(f))(theta),
    "reverse over reverse": lambda f, theta: jax.jacrev(jax.grad(scalar_of(f)))(theta),
    "vmap": lambda f, theta: jax.vmap(jax.grad(scalar_of(f)))(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 0.1]), theta)
    ),
    "grad of jit": lambda f, theta: jax.grad(scalar_of(jax.jit(f)))(theta),
    "jit of vmap of jvp": lambda f, theta: jax.jit(jax.vmap(lambda t: jax.jvp(f, (theta,), (t,))[1]))(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 0.1]), along(theta))
    ),
}


def assert_close(actual, expected, rtol):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * float(np.max(np.abs(e)) + 1e-30))


def derivatives(mode, problem, precision, transform):
    """The mode's result through the decorated solver and through the closed form."""
    residual, closed_form, theta, solve = PROBLEMS[problem]
    theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, precision), theta)
    solver = bl.custom_root(residual, solve=solve)(lambda init, theta: closed_form(theta))
    actual = transform(lambda theta: MODES[mode](functools.partial(solver, None), theta))(theta)
    return actual, jax.jit(lambda theta: MODES[mode](closed_form, theta))(theta)


@pytest.mark.parametrize(
    ("problem", "mode"),
    [
        pytest.param(
            problem,
            mode,
            marks=[] if problem in ("pytree", "nonsymmetric") or mode in ("jvp", "vjp") else pytest.mark.slow,
        )
        for problem in PROBLEMS
        for mode in MODES
    ],
)
def test_every_mode_gives_the_derivative_of_the_closed_form(problem, mode):
    assert_close(*derivatives(mode, problem, "float64", jax.jit), 1e-8)


@pytest.mark.sample(5)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("mode", ["jvp", "vjp", pytest.param("hessian", marks=pytest.mark.slow)])
def test_single_precision(problem, mode):
    with jax.enable_x64(False):
        assert_close(*derivatives(mode, problem, "float32", jax.jit), 1e-4)


@pytest.mark.parametrize("mode", ["value", "jvp", "vjp", "vmap", pytest.param("hessian", marks=pytest.mark.slow)])
def test_without_jit(mode):
    assert_close(*derivatives(mode, "ridge_cg", "float64", lambda f: f), 1e-8)


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("problem", ["nonsymmetric", "pytree"])
def test_a_fixed_point_has_the_same_derivatives(problem):
    residual, closed_form, theta, solve = PROBLEMS[problem]

    def step(w, theta):
        return jax.tree.map(lambda a, b: a + b, residual(w, theta), w)

    solver = bl.custom_fixed_point(step, solve=solve)(lambda init, theta: closed_form(theta))
    theta = jax.tree.map(jnp.asarray, theta)
    assert_close(jax.jacrev(functools.partial(solver, None))(theta), jax.jacobian(closed_form)(theta), 1e-8)


@pytest.mark.slow
def test_values_that_mapping_and_solver_close_over_are_differentiated():
    def solution(slope, offset):
        @bl.custom_root(lambda w, a: w**2 * slope - a * offset)
        def solver(init, a):
            return jnp.sqrt(a * offset / slope)

        return solver(1.0, 3.0)

    def expected(slope, offset):
        return jnp.sqrt(3.0 * offset / slope)

    for transform in (
        lambda f: jax.grad(f, (0, 1)),
        lambda f: jax.hessian(f, (0, 1)),
        lambda f: jax.jit(jax.grad(f, (0, 1))),
    ):
        assert_close(transform(solution)(2.0, 1.5), transform(expected)(2.0, 1.5), 1e-10)
    assert_close(
        jax.vmap(jax.grad(solution), (0, None))(jnp.array([1.0, 2.0]), 1.5),
        jax.vmap(jax.grad(expected), (0, None))(jnp.array([1.0, 2.0]), 1.5),
        1e-10,
    )


@pytest.mark.slow
def test_values_that_a_catalogue_mapping_closes_over_are_differentiated_twice():
    def solution(weight):
        mapping = bl.optimality.ProximalGradient(
            lambda w, theta: 0.5 * weight * jnp.sum((w - theta) ** 2),
            lambda w, step, theta: bl.prox.l1(w, step, weight**2),
        )
        solver = bl.custom_root(mapping)(
            lambda init, theta: jnp.sign(theta) * jnp.maximum(jnp.abs(theta) - weight, 0.0)
        )
        return jnp.sum(solver(None, jnp.array([3.0, 0.2])) ** 2)

    assert_close(jax.grad(solution)(0.5), -2 * (3.0 - 0.5), 1e-10)
    assert_close(jax.grad(jax.grad(solution))(0.5), 2.0, 1e-10)


def test_keyword_arguments_reach_both_and_are_differentiated():
    @bl.custom_root(lambda w, a, *, b: w - a * b)
    def solver(init, a, *, b):
        return a * b

    assert_close(jax.grad(lambda b: solver(None, 3.0, b=b))(2.0), 3.0, 1e-12)


def test_integer_and_static_arguments_pass_through():
    @bl.custom_root(lambda w, a, index, name: w - a[index])
    def solver(init, a, index, name):
        assert name == "fixed"
        return a[index]

    assert_close(
        jax.grad(lambda a: solver(None, a, jnp.array(1), "fixed"))(jnp.arange(3.0)), jnp.array([0.0, 1.0, 0.0]), 1e-12
    )


def test_the_derivative_with_respect_to_the_start_is_zero():
    solver = bl.custom_root(lambda w, a: w**2 - a)(lambda init, a: init * 0 + jnp.sqrt(a))
    assert float(jax.grad(solver)(1.0, 4.0)) == 0.0


class TestAux:
    @staticmethod
    @bl.custom_root(lambda w, a: w**2 - a, has_aux=True)
    def solver(init, a):
        return jnp.sqrt(a), {"twice": 2 * a, "steps": 7}

    def test_passes_through(self):
        root, aux = self.solver(1.0, 4.0)
        assert (float(root), float(aux["twice"]), int(aux["steps"])) == (2.0, 8.0, 7)

    def test_does_not_disturb_the_derivative_of_the_solution(self):
        (_, aux), grad = jax.value_and_grad(lambda a: self.solver(1.0, a), has_aux=True)(4.0)
        assert (float(grad), float(aux["twice"])) == (0.25, 8.0)

    @pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
    def test_has_no_silent_derivative(self, transform):
        with pytest.raises(TypeError, match="derivative of aux is not defined"):
            jax.grad(transform(lambda a: self.solver(1.0, a)[1]["twice"]))(4.0)
        _, (tangent, aux) = jax.jvp(lambda a: self.solver(1.0, a), (4.0,), (1.0,))
        assert float(tangent) == 0.25
        assert np.isnan(aux["twice"])


class TestHost:
    @pytest.mark.slow
    def test_a_callback_solver_works_under_every_transformation(self):
        from sklearn.linear_model import Ridge

        def fit(alpha):
            return Ridge(alpha=float(alpha), fit_intercept=False, tol=1e-12).fit(X, Y).coef_

        @bl.custom_root(
            bl.optimality.Stationary(lambda w, a: 0.5 * jnp.sum((X @ w - Y) ** 2) + 0.5 * a * jnp.sum(w**2))
        )
        def solver(init, alpha):
            return jax.pure_callback(fit, jax.ShapeDtypeStruct((4,), jnp.float64), alpha, vmap_method="sequential")

        def closed_form(alpha):
            return jnp.linalg.solve(X.T @ X + alpha * jnp.eye(4), X.T @ Y)

        alphas = jnp.array([0.5, 2.0])
        assert_close(
            jax.vmap(jax.jacrev(functools.partial(solver, None)))(alphas),
            jax.vmap(jax.jacfwd(closed_form))(alphas),
            1e-8,
        )
        assert_close(jax.jit(jax.jacfwd(functools.partial(solver, None)))(0.5), jax.jacfwd(closed_form)(0.5), 1e-8)

    def test_a_numpy_solver_runs_eagerly_and_says_so(self):
        @bl.custom_root(lambda w, a: w**2 - a)
        def numpy_root(init, a):
            return np.sqrt(np.asarray(a))

        with pytest.warns(UserWarning, match="numpy_root cannot be traced"):
            assert float(jax.grad(lambda a: numpy_root(1.0, a))(4.0)) == 0.25
        with pytest.raises(TypeError, match="jax.pure_callback"):
            jax.jit(lambda a: numpy_root(1.0, a))(4.0)

    def test_an_error_of_the_solver_itself_is_not_hidden(self):
        @bl.custom_root(lambda w, a: w - a)
        def broken(init, a):
            return a + "text"

        with pytest.raises(TypeError, match="add|text|str"):
            broken(1.0, 4.0)


class TestWork:
    """How many linear solves a derivative costs, counted in the linear solver itself."""

    @pytest.fixture
    def counted(self):
        calls = []

        class Counting(bl.LinearSolver):
            def __call__(self, operator, rhs, init=None, preconditioner=None):
                jax.debug.callback(lambda: calls.append(1))
                return bl.Dense()(operator, rhs, init, preconditioner)

        return Counting(), calls

    def test_one_adjoint_solve_serves_all_arguments_and_none_is_made_without_need(self, counted):
        solve, calls = counted
        solver = bl.custom_root(lambda w, a, b, c: w - a * b * jnp.sum(c), solve=solve)(
            lambda init, a, b, c: a * b * jnp.sum(c)
        )
        arguments = (2.0, 3.0, jnp.arange(4.0))
        jax.grad(lambda *args: solver(None, *args), argnums=(0, 1, 2))(*arguments)
        jax.effects_barrier()
        assert len(calls) == 1
        solver(None, *arguments)
        jax.grad(lambda x: solver(None, *arguments) * x)(1.0)
        jax.effects_barrier()
        assert len(calls) == 1


@pytest.mark.slow
def test_tiny_cotangents_do_not_underflow():
    with jax.enable_x64(False):
        theta = jnp.linspace(-1.0, 1.0, 4)
        for solve in (bl.CG(), bl.GMRES(), bl.Dense(), bl.BiCGStab()):
            solver = bl.custom_root(bl.optimality.Stationary(ridge_loss), solve=solve)(lambda init, theta: ridge(theta))
            _, pullback = jax.vjp(functools.partial(solver, None), theta)
            (full,), (tiny,) = pullback(jnp.ones(4)), pullback(jnp.full(4, 1e-25, jnp.float32))
            np.testing.assert_allclose(np.asarray(tiny, np.float64) * 1e25, full, rtol=1e-4)


class TestRefusals:
    @pytest.mark.slow
    def test_cg_on_a_plain_nonsymmetric_function_is_caught_where_values_are_concrete(self):
        solver = bl.custom_root(as_root(affine), solve=bl.CG())(lambda init, theta: affine_solution(theta))
        with pytest.raises(ValueError, match="symmetric"):
            jax.grad(lambda theta: jnp.sum(solver(None, theta)))(jnp.array([0.2, -0.7]))

    @pytest.mark.slow
    def test_cg_on_an_indefinite_function_gives_nan_and_not_a_number(self):
        saddle = jnp.diag(jnp.array([1.0, -2.0, 3.0]))
        solver = bl.custom_root(lambda w, t: saddle @ w - t, solve=bl.CG())(lambda init, t: jnp.linalg.solve(saddle, t))
        assert np.all(np.isnan(jax.grad(lambda t: jnp.sum(solver(None, t)))(jnp.ones(3))))

    def test_a_singular_system_gives_nan(self):
        solver = bl.custom_root(lambda w, t: 0.0 * w + t, solve=bl.GMRES())(lambda init, t: t)
        assert np.isnan(jax.grad(lambda t: solver(None, t))(1.0))

    def test_a_residual_of_another_shape_is_refused_in_a_sentence(self):
        solver = bl.custom_root(lambda w, t: jnp.sum(w) - t)(lambda init, t: jnp.ones(3) * t)
        with pytest.raises(ValueError, match="structure and shapes of the solution"):
            solver(None, 1.0)


@pytest.mark.slow
def test_root_jvp_and_vjp_are_the_decorated_derivatives():
    theta = jnp.linspace(-1, 1, 4)
    F, w, v = bl.optimality.Stationary(ridge_loss), ridge(theta), jnp.arange(4.0)
    for solve in (bl.CG(), bl.Dense()):
        assert_close(bl.root_jvp(F, w, (theta,), (v,), solve=solve), jax.jvp(ridge, (theta,), (v,))[1], 1e-8)
        assert_close(bl.root_vjp(F, w, (theta,), v, solve=solve), jax.vjp(ridge, theta)[1](v), 1e-8)


@pytest.mark.slow
def test_the_derivative_of_aux_is_undefined_under_every_transformation():
    @bl.custom_root(lambda w, theta: w**2 - theta, has_aux=True)
    def solver(init, theta):
        return jnp.sqrt(theta), {"seen": 3.0 * theta}

    root = lambda theta: solver(1.0, theta)[0]
    aux = lambda theta: solver(1.0, theta)[1]["seen"]
    theta = jnp.array([4.0, 9.0])
    np.testing.assert_allclose(jax.hessian(root)(4.0), -0.25 * 4.0**-1.5, rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(root)(theta), np.diag([0.25, 1 / 6]), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda t: jax.vmap(root)(t).sum())(theta), [0.25, 1 / 6], rtol=1e-12)
    assert bool(jnp.all(jnp.isnan(jax.jit(jax.jacfwd(aux))(theta))))
    assert bool(jnp.all(jnp.isnan(jax.vmap(lambda t: jax.jvp(aux, (t,), (1.0,))[1])(theta))))
    for derivative in (jax.grad, jax.hessian, lambda f: jax.vmap(jax.grad(f))):
        with pytest.raises(TypeError, match="The derivative of aux is not defined"):
            derivative(aux)(theta[0] if derivative in (jax.grad, jax.hessian) else theta)
