"""The laws of hypergradients: engines x problems x modes, against closed forms and finite differences."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

KEYS = jax.random.split(jax.random.key(1), 8)
FEATURES = 6


@functools.cache
def data():
    truth = jnp.array([2.0, -1.0, 0.0, 0.0, 0.5, -2.0])
    x, xv = jax.random.normal(KEYS[0], (20, FEATURES)), jax.random.normal(KEYS[1], (15, FEATURES))
    noise = 0.5 * jax.random.normal(KEYS[2], (20,))
    return (x, x @ truth + noise), (xv, xv @ truth + 0.5 * jax.random.normal(KEYS[3], (15,)))


def squares(params, hparams, batch):
    return 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2)


def logistic(params, hparams, batch):
    return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(batch[1]) * (batch[0] @ params)))


def ridge(params, hparams, batch):
    return squares(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


def problem(name):
    """(inner problem, outer loss, hyperparameters); every face holds some coordinates and not others."""
    zeros, per_feature = lambda key, h: jnp.zeros(FEATURES), jnp.linspace(-2.0, 0.0, FEATURES)
    if name == "ridge":
        return bl.InnerProblem(loss=ridge, init=zeros), squares, per_feature
    if name == "logistic":
        loss = lambda w, h, batch: logistic(w, h, batch) + 0.5 * jnp.sum(jnp.exp(h) * w**2)
        return bl.InnerProblem(loss=loss, init=zeros), logistic, per_feature
    if name == "lasso":
        return bl.InnerProblem(loss=squares, init=zeros, penalty=bl.L1(weight=jnp.exp)), squares, jnp.array(-1.0)
    if name == "box":
        box = bl.Box(lower=lambda h: h[0], upper=lambda h: h[1])
        return bl.InnerProblem(loss=squares, init=zeros, constraint=box), squares, jnp.array([-0.7, 0.4])
    if name == "simplex":
        start = lambda key, h: jnp.full(FEATURES, 1 / FEATURES)
        loss = lambda w, h, batch: squares(w, h, batch) + 0.5 * jnp.sum((w - h[1:]) ** 2)
        inner = bl.InnerProblem(loss=loss, init=start, constraint=bl.Simplex(scale=lambda h: h[0]))
        return inner, squares, jnp.array([1.3, 0.5, 0.1, -0.2, 0.4, 0.3, -0.4])
    # A contraction whose Jacobian is not symmetric.
    matrix = 0.4 * jax.random.normal(KEYS[4], (FEATURES, FEATURES)) / FEATURES**0.5
    step = lambda w, h, batch: jnp.tanh(matrix @ w + h)
    inner = bl.InnerProblem.from_fixed_point(step, zeros)
    return inner, lambda w, h, batch: 0.5 * jnp.sum((w - 0.3) ** 2), per_feature


PROBLEMS = ("ridge", "logistic", "lasso", "box", "simplex", "fixed_point")
SMOOTH = ("ridge", "logistic")


def task_of(name, solver=None):
    inner, outer_loss, hparams = problem(name)
    inner = inner if solver is None else inner.with_solver(solver)
    train, validation = data()
    batches = bl.full_batch(train, validation)
    return bl.Task(inner=inner, outer_loss=outer_loss, init_hparams=lambda key: hparams, batches=batches), hparams


@functools.cache
def oracle(name):
    """The hypergradient by central differences of a solve to rounding (of the paper's closed form, for ridge)."""
    task, hparams = task_of(name)
    train, validation = data()
    tight = task.inner.with_solver(bl.Auto(tol=1e-14, max_steps=100_000))
    value = jax.jit(lambda h: task.outer_loss(tight.solve(h, train).params, h, validation))
    flat = np.atleast_1d(np.asarray(hparams, float))
    width = 1e-5
    slopes = [
        (value(jnp.asarray(up).reshape(hparams.shape)) - value(jnp.asarray(down).reshape(hparams.shape))) / (2 * width)
        for up, down in ((flat + width * unit, flat - width * unit) for unit in np.eye(flat.size))
    ]
    return np.asarray(slopes).reshape(hparams.shape)


def agree(grad, exact, rtol=1e-6):
    np.testing.assert_allclose(grad, exact, rtol=0, atol=rtol * np.max(np.abs(exact)))


SOLVERS = [
    bl.Dense(),
    bl.CG(),
    bl.CG(preconditioner=bl.Jacobi()),
    bl.CG(preconditioner=bl.RandomizedNystrom(rank=4)),
    bl.BlockCG(),
    bl.MINRES(),
    bl.GMRES(),
    bl.BiCGStab(),
    bl.Normal(),
    bl.AutoLinear(),
]
NEED_SYMMETRY = (bl.CG, bl.BlockCG, bl.MINRES)


def named(value):
    inside = getattr(value, "preconditioner", None)
    return type(value).__name__ + (f"-{type(inside).__name__}" if inside is not None else "")


@pytest.mark.sample(1)
@pytest.mark.parametrize("linear_solve", SOLVERS, ids=named)
@pytest.mark.parametrize("name", PROBLEMS)
def test_implicit_is_the_derivative(name, linear_solve):
    if name == "fixed_point" and isinstance(linear_solve, NEED_SYMMETRY):
        pytest.skip("the system of a fixed point is not symmetric")
    task, hparams = task_of(name)
    _, grad, report = bl.hypergradient(task, hparams, bl.Implicit(linear_solve=linear_solve))
    agree(grad, oracle(name))
    assert report.status.name in ("converged", "stalled")
    assert report.error_grade == "estimate"


def first_order(name):
    if name in SMOOTH:
        return bl.GradientDescent(max_steps=2000, tol=1e-12)
    return bl.ProximalGradient(max_steps=2000, tol=1e-12)


@pytest.mark.sample(2)
@pytest.mark.parametrize("engine", [bl.Unrolled(), bl.Forward(), bl.Truncated(steps=400)], ids=named)
@pytest.mark.parametrize("name", PROBLEMS[:5])
def test_differentiated_steps_are_the_derivative(name, engine):
    task, hparams = task_of(name, first_order(name))
    agree(bl.hypergradient(task, hparams, engine)[1], oracle(name))


@pytest.mark.parametrize("name", SMOOTH)
def test_one_step_of_newton_is_the_derivative(name):
    task, hparams = task_of(name, bl.Newton(tol=1e-13))
    agree(bl.hypergradient(task, hparams, bl.OneStep())[1], oracle(name))


@pytest.mark.slow
def test_one_step_of_gradient_descent_is_biased_by_its_contraction():
    task, hparams = task_of("ridge", bl.GradientDescent(max_steps=2000, tol=1e-12))
    _, grad, report = bl.hypergradient(task, hparams, bl.OneStep())
    assert report.status.name == "truncated"
    errors = [
        np.linalg.norm(bl.hypergradient(task, hparams, bl.Truncated(steps=steps))[1] - oracle("ridge"))
        for steps in (1, 4, 16, 64)
    ]
    assert all(later < 0.9 * earlier for earlier, later in itertools.pairwise(errors))
    np.testing.assert_allclose(np.linalg.norm(grad - oracle("ridge")), errors[0], rtol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("linear_solve", [bl.Neumann(terms=400, alpha=0.2), bl.Nystrom(rank=6, rho=1e-9)], ids=named)
def test_truncated_linear_solvers_approach_the_derivative(linear_solve):
    task, hparams = task_of("ridge")
    _, grad, report = bl.hypergradient(task, hparams, bl.Implicit(linear_solve=linear_solve))
    agree(grad, oracle("ridge"))
    assert report.status.name == "truncated"


@pytest.mark.slow
def test_ridge_agrees_with_the_closed_form_of_its_derivative():
    task, hparams = task_of("ridge")
    (x, y), (xv, yv) = data()

    def value(h):
        params = jnp.linalg.solve(x.T @ x / len(y) + jnp.diag(jnp.exp(h)), x.T @ y / len(y))
        return 0.5 * jnp.mean((xv @ params - yv) ** 2)

    exact = jax.grad(value)(hparams)
    for engine in (bl.Implicit(), bl.ClosedForm(), bl.AutoEngine(quiet=True)):
        agree(bl.hypergradient(task, hparams, engine)[1], exact, 1e-10)


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["ridge", "lasso"])
def test_jit_and_vmap_of_the_hypergradient(name):
    task, hparams = task_of(name)
    several = jnp.stack([hparams, hparams - 0.3, hparams + 0.2])
    one = lambda h: bl.hypergradient(task, h)[:2]
    values, grads = jax.vmap(one)(several)
    for h, value, grad in zip(several, values, grads, strict=True):
        exact_value, exact = bl.hypergradient(task, h)[:2]
        np.testing.assert_allclose(value, exact_value, rtol=1e-10)
        np.testing.assert_allclose(grad, exact, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(one)(hparams)[1], bl.hypergradient(task, hparams)[1], rtol=1e-10)


@pytest.mark.slow
def test_float32():
    with jax.enable_x64(False):
        train, validation = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), data())
        inner = bl.InnerProblem(loss=ridge, init=lambda key, h: jnp.zeros(FEATURES))
        hparams = jnp.linspace(-2.0, 0.0, FEATURES)
        task = bl.Task(
            inner=inner,
            outer_loss=squares,
            init_hparams=lambda key: hparams,
            batches=bl.full_batch(train, validation),
            precision="float32",
        )
        _, grad, report = bl.hypergradient(task, hparams)
        assert grad.dtype == report.params.dtype == jnp.float32
        assert report.status.name in ("converged", "stalled")
        error = np.linalg.norm(np.asarray(grad, float) - np.linspace(0, 0, FEATURES) - np.asarray(oracle32(), float))
        assert error <= float(report.error_estimate)
        assert error <= 1e-5 * np.linalg.norm(oracle32())


@functools.cache
def oracle32():
    """The hypergradient of the float32 data, in float64."""
    with jax.enable_x64(True):
        rounded = jax.tree.map(lambda leaf: jnp.asarray(jnp.asarray(leaf, jnp.float32), jnp.float64), data())
        hparams = jnp.asarray(jnp.linspace(-2.0, 0.0, FEATURES, dtype=jnp.float32), jnp.float64)
        inner = bl.InnerProblem(loss=ridge, init=lambda key, h: jnp.zeros(FEATURES))
        task = bl.Task(
            inner=inner, outer_loss=squares, init_hparams=lambda key: hparams, batches=bl.full_batch(*rounded)
        )
        return np.asarray(bl.hypergradient(task, hparams)[1])


@pytest.mark.slow
def test_a_second_call_traces_nothing_also_with_other_tolerances():
    traces = []

    def loss(params, hparams, batch):
        traces.append(1)
        return ridge(params, hparams, batch)

    task, hparams = task_of("ridge")
    task = replace(task, inner=replace(task.inner, loss=loss))
    bl.hypergradient(task, hparams, bl.Implicit(linear_solve=bl.CG(tol=1e-10)))
    before = len(traces)
    bl.hypergradient(task, hparams + 1, bl.Implicit(linear_solve=bl.CG(tol=1e-6)))
    assert len(traces) == before


@pytest.mark.slow
def test_warm_start_costs_less():
    task, hparams = task_of("logistic", bl.LBFGS(tol=1e-12))
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-4), accuracy="residual")
    _, _, cold = bl.hypergradient(task, hparams, engine)
    _, _, warm = bl.hypergradient(task, hparams + 1e-6, engine, carry=cold.carry)
    assert int(warm.inner_steps) < int(cold.inner_steps)
    assert int(warm.adjoint_steps) < int(cold.adjoint_steps)
