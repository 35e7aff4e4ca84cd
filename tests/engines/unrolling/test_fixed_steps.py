"""A training budget (``steps=K``), and what an unrolled gradient says of a derivative that has not converged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl

CURVATURE = np.array([1.0, 0.3])
H = np.array([1.0, 2.0])
KINDS = [bl.Unrolled, bl.Forward]
SOLVERS = [
    bl.GradientDescent(),
    bl.ProximalGradient(),
    bl.LBFGS(),
    bl.Newton(),
    bl.Broyden(),
    bl.Optax(optax.adam(0.1)),
    bl.FIRE(),
    bl.Auto(),
]


def loss(params, hparams, batch):
    """Two leaves, a quadratic in each, with the solution hparams and hparams[0]."""
    far = 0.5 * jnp.sum(CURVATURE * (params["a"] - hparams) ** 2)
    return far + 0.5 * jnp.sum((params["b"] - hparams[0]) ** 2)


def cold(key, hparams):
    return {"a": jnp.zeros(2), "b": jnp.zeros(1)}


def at_solution(key, hparams):
    return jax.lax.stop_gradient({"a": hparams, "b": hparams[:1]})


def task_of(solver, init=cold):
    return bl.Task(
        inner=bl.InnerProblem(loss=loss, init=init, solver=solver),
        outer_loss=lambda w, h, batch: jnp.sum(w["a"]) + jnp.sum(w["b"] ** 2),
        init_hparams=lambda key: jnp.asarray(H),
        batches=bl.full_batch(0.0, 0.0),
    )


def after(steps, init=cold, size=0.5):
    """The gradient of the outer loss after so many plain gradient steps."""

    def value(hparams):
        w = init(None, hparams)
        for _ in range(steps):
            w = jax.tree.map(lambda leaf, slope: leaf - size * slope, w, jax.grad(loss)(w, hparams, None))
        return jnp.sum(w["a"]) + jnp.sum(w["b"] ** 2)

    return jax.grad(value)(jnp.asarray(H))


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", [cold, at_solution])
def test_the_gradient_is_that_of_the_loss_after_those_steps(kind, init):
    """From a start that is the solution too, and whatever max_steps and tol of the solver."""
    solver = bl.GradientDescent(max_steps=2, tol=1.0, step_size=0.5)
    _, grad, report = bl.hypergradient(task_of(solver, init), jnp.asarray(H), kind(steps=3))
    np.testing.assert_allclose(grad, after(3, init), rtol=1e-12)
    assert report.status.name == report.inner_status.name == "truncated"
    assert int(report.inner_steps) == 3 and float(report.error_estimate) == np.inf


@pytest.mark.slow
def test_under_jit_and_vmap():
    task = task_of(bl.GradientDescent(step_size=0.5))
    gradient = jax.jit(jax.vmap(lambda h: bl.hypergradient(task, h, bl.Unrolled(steps=3))[1]))
    np.testing.assert_allclose(gradient(jnp.stack([H, H])), jnp.stack([after(3)] * 2), rtol=1e-12)


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda one: type(one).__name__)
def test_any_solver_that_unrolls_takes_them(solver, kind):
    """Step sizes that a search finds depend on the hyperparameters, and that is in the derivative."""
    task, engine = task_of(solver), kind(steps=2)
    value = lambda h: float(bl.hypergradient(task, h, engine)[0])
    _, grad, report = bl.hypergradient(task, H, engine)
    difference = [(value(H + 1e-5 * e) - value(H - 1e-5 * e)) / 2e-5 for e in np.eye(2)]
    np.testing.assert_allclose(grad, difference, rtol=1e-6, atol=1e-8)
    assert report.status.name == "truncated" and int(report.inner_steps) == 2


@pytest.mark.slow
def test_a_budget_of_the_solver_is_a_failure_that_names_the_setting():
    task = task_of(bl.GradientDescent(max_steps=5, step_size=0.1))
    with pytest.raises(bl.ConvergenceError, match=r"training budget.*bl\.Unrolled\(steps="):
        bl.hypergradient(task, H, bl.Unrolled())
    with pytest.raises(ValueError, match="take 1, 2"):
        bl.Unrolled(steps=-1)


def test_a_failure_on_the_way_is_no_truncation():
    task = task_of(bl.GradientDescent(step_size=1e200))
    with pytest.raises(bl.ConvergenceError, match="nonfinite"):
        bl.hypergradient(task, H, bl.Unrolled(steps=5))


def fixed_point_task(solver):
    """w = cos(w) + h from h: at h = pi/2 the start is the fixed point, where the map turns by -1."""
    return bl.Task(
        inner=bl.InnerProblem.from_fixed_point(
            lambda w, h, batch: jnp.cos(w) + h, init=lambda key, h: jax.lax.stop_gradient(h), solver=solver
        ),
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.zeros(2),
        batches=bl.full_batch(0.0, 0.0),
    )


@functools.cache
def slopes():
    w = 0.7390851332151607
    return np.array([1 / (1 + np.sin(w)), 0.5])


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", [bl.Anderson(), bl.Broyden()], ids=["anderson", "broyden"])
def test_a_degenerate_coordinate_is_in_the_estimate(solver, kind):
    """The steps accelerate the other coordinate; the derivative of this one is 0.09 off when they stop."""
    _, grad, report = bl.hypergradient(fixed_point_task(solver), jnp.array([0.0, np.pi / 2]), kind())
    true = float(np.linalg.norm(grad - slopes()))
    assert report.status.name == "converged" and true > 1e-3
    assert true / 2 <= float(report.error_estimate) <= 10 * true


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_coordinate_that_starts_at_its_solution_is_in_the_estimate(kind):
    """The fast coordinate ends the solve while the derivative of the slow one has hardly begun to move."""
    curvature = jnp.array([1.0, 1e-3])
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum(curvature * (w - h) ** 2),
            init=lambda key, h: jnp.array([5.0, 2.0]),
            solver=bl.GradientDescent(step_size=0.9),
        ),
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.asarray(H),
        batches=bl.full_batch(0.0, 0.0),
    )
    _, grad, report = bl.hypergradient(task, H, kind())
    true = float(jnp.linalg.norm(grad - 1.0))
    assert report.status.name == "converged" and true > 0.9
    assert true / 3 <= float(report.error_estimate)
