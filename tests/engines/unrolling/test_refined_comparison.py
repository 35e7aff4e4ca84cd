"""Engines that are biased by design: what they say of their error, and that a warm start does not add to it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

KEYS = jax.random.split(jax.random.key(8), 4)
FEATURES = 5


def error(params, hparams, batch):
    return 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2)


def ridge(params, hparams, batch):
    return error(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)


def make(solver, penalty=None, loss=ridge):
    x, xv = jax.random.normal(KEYS[0], (20, FEATURES)), jax.random.normal(KEYS[1], (15, FEATURES))
    truth = jnp.array([2.0, -1.0, 0.0, 0.3, 0.0])
    y = x @ truth + 0.5 * jax.random.normal(KEYS[2], (20,))
    extra = {"penalty": penalty} if penalty else {}
    return bl.Task(
        inner=bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(FEATURES), solver=solver, **extra),
        outer_loss=error,
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch((x, y), (xv, xv @ truth)),
    )


@functools.cache
def problem(name, exact=False):
    """The task, its hyperparameters, and, if ``exact``, a solver that leaves rounding only."""
    with jax.enable_x64(True):
        if name == "ridge":
            return make(bl.Newton(tol=1e-14) if exact else bl.GradientDescent(tol=1e-6)), jnp.full(FEATURES, -2.0)
        solver = bl.ProximalGradient(tol=1e-14 if exact else 1e-6)
        return make(solver, bl.L1(weight=jnp.exp), error), jnp.array(-1.5)


@functools.cache
def truth(name):
    engine = bl.Implicit(linear_solve=bl.Dense(), accuracy="residual")
    return bl.hypergradient(*problem(name, exact=True), engine)[1]


def true_error(name, grad):
    return float(jnp.linalg.norm(grad - truth(name)))


TRUNCATED = [
    bl.Implicit(linear_solve=linear_solve, accuracy="residual")
    for linear_solve in (bl.Nystrom(rank=2), bl.Neumann(terms=5, alpha=0.1), bl.Damped(damping=0.1))
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", TRUNCATED, ids=["nystrom", "neumann", "damped"])
def test_an_adjoint_that_is_truncated_is_measured_or_not_known(engine):
    task, hparams = problem("ridge", exact=True)
    _, grad, report = bl.hypergradient(task, hparams, engine)
    assert true_error("ridge", grad) > 1e-3 * float(jnp.linalg.norm(grad))
    assert report.status.name == "truncated" and report.error_grade == "residual"
    assert float(report.error_estimate) == np.inf
    _, grad, report = bl.hypergradient(task, hparams, dataclasses.replace(engine, refine=True))
    assert true_error("ridge", grad) < 1e-9
    assert float(report.error_estimate) < 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("engine", [bl.OneStep(), bl.Truncated(steps=2), bl.SOBA()], ids=lambda one: type(one).__name__)
def test_a_bias_that_is_not_measured_is_infinite(engine):
    _, grad, report = bl.hypergradient(*problem("ridge"), engine)
    assert true_error("ridge", grad) > 1e-2 * float(jnp.linalg.norm(grad))
    assert float(report.error_estimate) == np.inf
    assert report.error_grade == "residual"


SLOW = pytest.mark.slow
MEASURED = [
    pytest.param("ridge", bl.OneStep(accuracy="estimate"), id="one-step"),
    pytest.param("ridge", bl.Truncated(steps=3, accuracy="estimate"), id="truncated", marks=SLOW),
    pytest.param("ridge", bl.Unrolled(accuracy="estimate"), id="unrolled", marks=SLOW),
    pytest.param("ridge", bl.Forward(accuracy="estimate"), id="forward", marks=SLOW),
    pytest.param("lasso", bl.OneStep(accuracy="estimate"), id="one-step-lasso", marks=SLOW),
    pytest.param("ridge", bl.Implicit(linear_solve=bl.Neumann(terms=5, alpha=0.1)), id="neumann", marks=SLOW),
    pytest.param("ridge", bl.Implicit(linear_solve=bl.Nystrom(rank=2, rho=0.1)), id="nystrom", marks=SLOW),
    pytest.param("ridge", bl.Implicit(linear_solve=bl.Damped(damping=0.02)), id="damped"),
    pytest.param("lasso", bl.Implicit(linear_solve=bl.Neumann(terms=3, alpha=0.5)), id="neumann-lasso", marks=SLOW),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "engine"), MEASURED)
def test_a_bias_that_is_measured_is_right(name, engine):
    _, grad, report = bl.hypergradient(*problem(name), engine)
    true = true_error(name, grad)
    assert report.error_grade == "estimate"
    assert true <= float(report.error_estimate) <= 1.3 * true


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("engine", [bl.Unrolled(), bl.Forward()], ids=lambda one: type(one).__name__)
def test_a_warm_start_leaves_steps_to_differentiate(engine):
    _, grad, report = bl.hypergradient(*problem("ridge"), engine)
    _, again, second = bl.hypergradient(*problem("ridge"), engine, carry=report.carry)
    np.testing.assert_array_equal(again, grad)
    assert int(second.inner_steps) == int(report.inner_steps) > 1


def test_without_a_step_nothing_is_known():
    """From a start that is the solution already no step is taken, and nothing is differentiated."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2),
        init=lambda key, h: jax.lax.stop_gradient(h) * jnp.ones(2),
        solver=bl.GradientDescent(),  # Newton's method takes a step, because nobody has looked at the curvature there
    )
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(None, None),
    )
    _, grad, report = bl.hypergradient(task, jnp.ones(()), bl.Unrolled())
    assert int(report.inner_steps) == 0
    assert float(grad) == 0.0  # the truth is 2
    assert float(report.error_estimate) == np.inf


def test_an_unknown_accuracy_is_refused():
    with pytest.raises(ValueError, match="residual, estimate"):
        bl.OneStep(accuracy="bound")


@pytest.mark.slow
def test_the_last_steps_are_stable_whatever_step_size_the_search_ended_with():
    """Accepted along the last way only, it may amplify other directions a thousandfold; the bias must decay."""
    errors = [
        true_error("lasso", bl.hypergradient(*problem("lasso"), bl.Truncated(steps=steps))[1]) for steps in (1, 20, 100)
    ]
    size = float(jnp.linalg.norm(truth("lasso")))
    assert errors[0] < size and errors[1] < 0.1 * size and errors[2] < 1e-4 * size
