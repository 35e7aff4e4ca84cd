"""One hypergradient: value, derivative and report; compiled once; never silently wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.engines import hypergradients

X = np.random.default_rng(0).normal(size=(30, 5))
Y = X @ np.array([1.0, -1.0, 0.5, 0.0, 0.0]) + 0.3 * np.random.default_rng(1).normal(size=30)


def error(params, hparams, batch):
    x, y = batch
    return 0.5 * jnp.mean((x @ params - y) ** 2)


def make_task(solver: bl.Solver = bl.Auto(), **more):
    train, validation = (X[:20], Y[:20]), (X[20:], Y[20:])
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.sum(jnp.exp(h) * w**2),
            init=lambda key, h: jnp.zeros(5),
            solver=solver,
        ),
        outer_loss=error,
        init_hparams=lambda key: jnp.zeros(5),
        batches=bl.full_batch(train, validation),
        **more,
    )


def closed_form(h):
    x, y = jnp.asarray(X[:20]), jnp.asarray(Y[:20])
    w = jnp.linalg.solve(x.T @ x / 20 + jnp.diag(jnp.exp(h)), x.T @ y / 20)
    return error(w, h, (X[20:], Y[20:]))


def traces(task):
    return hypergradients._PROGRAMS[task].traces


H = np.linspace(-2.0, 0.0, 5)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "engine", [bl.Implicit(), bl.Unrolled(), bl.Forward(), bl.OneStep()], ids=lambda e: type(e).__name__
)
def test_value_and_gradient_are_those_of_the_closed_form(engine):
    task = make_task(bl.Newton(max_steps=20))
    value, grad, report = bl.hypergradient(task, H, engine)
    np.testing.assert_allclose(value, closed_form(H), rtol=1e-9)
    np.testing.assert_allclose(grad, jax.grad(closed_form)(H), rtol=1e-8)
    assert bool(report.status.ok)
    assert report.status.name == ("truncated" if isinstance(engine, bl.OneStep) else "converged")


@pytest.mark.slow
def test_the_prior_on_the_hyperparameters_is_part_of_both():
    task = make_task(prior=lambda h: 0.5 * jnp.sum(h**2))
    value, grad, _ = bl.hypergradient(task, H)
    np.testing.assert_allclose(value, closed_form(H) + 0.5 * jnp.sum(H**2), rtol=1e-9)
    np.testing.assert_allclose(grad, jax.grad(closed_form)(H) + H, rtol=1e-8)


@pytest.mark.slow
def test_calling_again_traces_nothing():
    task = make_task(bl.LBFGS(tol=1e-10))
    bl.hypergradient(task, H, bl.Implicit())
    _, grad, report = bl.hypergradient(task, H + 1, bl.Implicit())
    _, again, _ = bl.hypergradient(task, H + 1, bl.Implicit(), carry=report.carry)
    np.testing.assert_allclose(again, grad, rtol=1e-7)
    assert traces(task) == 1  # warm starts too
    bl.hypergradient(task, H, bl.Implicit(linear_solve=bl.CG(tol=1e-8)))
    bl.hypergradient(task, H, bl.Implicit(linear_solve=bl.CG(tol=1e-4)))
    bl.hypergradient(task, H, bl.Implicit(linear_solve=bl.CG(tol=np.float64(1e-6))))
    assert traces(task) == 2


def test_the_carry_warm_starts_both_solves():
    task = make_task(bl.GradientDescent(tol=1e-10, max_steps=10_000))
    engine = bl.Implicit(linear_solve=bl.CG(), accuracy="residual")
    _, grad, cold = bl.hypergradient(task, H, engine)
    _, again, warm = bl.hypergradient(task, H, engine, carry=cold.carry)
    assert int(warm.inner_steps) == 0 < int(cold.inner_steps)
    assert int(warm.adjoint_steps) < int(cold.adjoint_steps)
    np.testing.assert_allclose(again, grad, rtol=1e-8)


def test_a_failure_raises_with_residual_and_remedy():
    task = make_task(bl.GradientDescent(max_steps=3))
    with pytest.raises(
        bl.ConvergenceError, match=r"inner solve .* max_steps after 3 steps .* raise max_steps"
    ) as caught:
        bl.hypergradient(task, H)
    assert caught.value.report.inner_status.name == "max_steps"


@pytest.mark.slow
def test_inside_a_trace_the_gradient_of_a_failed_solve_is_nan():
    task = make_task(bl.GradientDescent(max_steps=3))
    _, grad, report = jax.jit(lambda h: bl.hypergradient(task, h))(H)
    assert np.isnan(grad).all()
    assert report.status.name == "max_steps"


@pytest.mark.slow
def test_inside_a_trace_it_is_the_same_function():
    task = make_task()
    points = np.stack([H, H + 0.5])
    _, grads, _ = jax.jit(jax.vmap(lambda h: bl.hypergradient(task, h)))(points)
    np.testing.assert_allclose(grads, jax.vmap(jax.grad(closed_form))(points), rtol=1e-8)


@pytest.mark.parametrize("transform", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("engine", [bl.Implicit(), bl.ClosedForm(), bl.OneStep()], ids=lambda e: type(e).__name__)
def test_second_derivatives_that_would_be_wrong_are_refused(engine, transform):
    task = make_task(bl.Newton(max_steps=20))
    with pytest.raises(TypeError, match=f"by bl.{type(engine).__name__} would be wrong.*InnerProblem.solve"):
        transform(lambda h: bl.hypergradient(task, h, engine)[1])(H)


@pytest.mark.slow
def test_second_derivatives_where_the_refusal_points():
    task = make_task(bl.Newton(max_steps=20))

    def loss(h):
        return error(task.inner.solve(h, (X[:20], Y[:20])).params, h, (X[20:], Y[20:]))

    forward = jax.jacfwd(lambda h: bl.hypergradient(task, h, bl.Forward())[1])(H)
    np.testing.assert_allclose(jax.jacfwd(jax.grad(loss))(H), jax.hessian(closed_form)(H), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(forward, jax.hessian(closed_form)(H), rtol=1e-7, atol=1e-10)


@pytest.mark.slow
def test_reverse_mode_over_forward_is_refused():
    task = make_task(bl.Newton(max_steps=20))
    with pytest.raises(TypeError, match="bl.Forward takes the gradient in forward mode.*jax.jacfwd"):
        jax.jacrev(lambda h: bl.hypergradient(task, h, bl.Forward())[1])(H)
