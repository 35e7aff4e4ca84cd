"""Tolerances that follow the outer progress: the same optimum, less work, nothing compiled again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.engines.implicit_function.tolerances import Evidence

DIM, KEYS = 12, jax.random.split(jax.random.key(3), 3)


@functools.cache
def task():
    """A quadratic inner problem of condition 30 whose solution is linear in four hyperparameters."""
    with jax.enable_x64(True):
        curvature = jnp.linspace(1.0, 30.0, DIM)
        towards = jax.random.normal(KEYS[0], (DIM, 4)) * curvature[:, None]
        target = jax.random.normal(KEYS[1], (DIM,))
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum(curvature * w**2) - w @ (towards @ h),
            init=lambda key, h: jnp.zeros(DIM),
            solver=bl.GradientDescent(max_steps=2000, tol=1e-10),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - target) ** 2),
        init_hparams=lambda key: jnp.ones(4),
        batches=bl.full_batch(None, None),
    )


FIXED = bl.Implicit(linear_solve=bl.CG(tol=1e-10), accuracy="residual")
ENGINES = {
    "summable": bl.Adaptive(FIXED, bl.Summable(first=0.1, rate=0.7)),
    "error": bl.Adaptive(bl.Implicit(linear_solve=bl.CG(tol=1e-10)), bl.ErrorDriven()),
}


def descend(engine, steps=40, rate=0.05):
    hparams, carry, spent, reports = jnp.ones(4), None, 0, []
    for _ in range(steps):
        _, grad, report = bl.hypergradient(task(), hparams, engine, carry=carry)
        hparams, carry = hparams - rate * grad, report.carry
        spent += int(report.counts.gradients) + int(report.counts.hessian_products)
        reports.append(report)
    return hparams, spent, reports


@functools.cache
def fixed():
    with jax.enable_x64(True):
        return descend(FIXED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_same_descent_for_less_work(name):
    hparams, spent, reports = descend(ENGINES[name])
    expected, plain, _ = fixed()
    assert jnp.linalg.norm(hparams - expected) <= 1e-2 * jnp.linalg.norm(expected)
    assert spent < 0.7 * plain
    tolerances = [float(report.inner_tol) for report in reports]
    assert tolerances[0] > 1e-2 and tolerances[-1] < 0.1 * tolerances[0]


@pytest.mark.slow
def test_nothing_is_compiled_again_when_tolerances_change():
    traces = []

    def counted(w, h, batch):
        traces.append(1)
        return task().outer_loss(w, h, batch)

    counting = dataclasses.replace(task(), outer_loss=counted)
    loose, tight = bl.ErrorDriven(), bl.ErrorDriven(fraction=0.1)
    _, _, first = bl.hypergradient(counting, jnp.ones(4), bl.Adaptive(bl.Implicit(linear_solve=bl.CG()), loose))
    before = len(traces)
    engine = bl.Adaptive(bl.Implicit(linear_solve=bl.CG(tol=1e-9)), tight)
    bl.hypergradient(counting, 1.1 * jnp.ones(4), engine, carry=first.carry)
    assert len(traces) == before > 0


def test_error_is_below_the_fraction_where_it_was_estimated():
    exact = bl.hypergradient(task(), jnp.ones(4), FIXED)[1]
    _, grad, report = bl.hypergradient(task(), jnp.ones(4), ENGINES["error"])
    error = float(jnp.linalg.norm(grad - exact))
    assert 0 < error <= 0.2 * float(jnp.linalg.norm(grad))
    assert report.inner_tol > 1e-6  # and not by solving to the end


def test_only_the_part_that_causes_the_error_is_refined():
    schedule = bl.ErrorDriven(fraction=0.2, first=0.1)
    begin = schedule.begin()
    finest = begin._replace(inner=jnp.array(1e-10), adjoint=jnp.array(1e-10))
    one = jnp.array(1.0)
    seen = Evidence(0.1 * one, 0.1 * one, 5.0 * one, 0.05 * one, jnp.bool_(True), one)
    done, after = schedule.judge(begin, finest, seen)
    assert not done and after.adjoint == begin.adjoint
    assert float(after.inner * after.inner_ratio) == pytest.approx(0.08)  # aims at 0.8 of half of the error allowed
    done, after = schedule.judge(after, finest, seen._replace(inner_error=0.0 * one, fresh=jnp.bool_(False)))
    assert not done  # the ratio is remembered: the same residual has the same error


def test_the_finest_tolerance_ends_the_rounds():
    schedule = bl.ErrorDriven(first=1e-3)
    begin = schedule.begin()
    finest = begin._replace(inner=jnp.array(1e-3), adjoint=jnp.array(jnp.inf))
    one = jnp.array(1.0)
    done, after = schedule.judge(begin, finest, Evidence(one, one, one, one, jnp.bool_(True), one))
    assert done and after.inner == 1e-3


@pytest.mark.slow
def test_a_fit_ends_with_figures_at_the_finest_tolerances():
    """Loosely solved, another step looked best, and at a loss that no exact solution has."""
    result = bl.Trainer(optimizer=optax.adam(0.3), engine=ENGINES["summable"], steps=8).fit(task())
    for hparams, params in ((result.hparams, result.params), (result.last_hparams, result.last_params)):
        value, _, exact = bl.hypergradient(task(), hparams, FIXED)
        np.testing.assert_allclose(params, exact.params, atol=1e-8)
        name = "best_outer_loss" if hparams is result.hparams else "final_outer_loss"
        np.testing.assert_allclose(result.summary[name], value, rtol=1e-8)
    loose = result.metrics[-1]
    assert loose["inner/tol"] > 1e-3 and loose["inner/residual"] > 1e-4
    assert result.summary["best_outer_loss"] <= result.summary["final_outer_loss"]


@pytest.mark.slow
def test_where_the_finest_tolerances_cannot_be_had_a_fit_ends_with_the_loose_figures(caplog):
    short = task().inner.with_solver(bl.GradientDescent(max_steps=12, tol=1e-10))
    engine = bl.Adaptive(FIXED, bl.Summable(first=0.1, rate=1.0, power=0.01))
    result = bl.Trainer(optimizer=optax.sgd(0.01), engine=engine, steps=2).fit(dataclasses.replace(task(), inner=short))
    assert result.summary["status"] == "completed" and "Result and summary are loose" in caplog.text
    assert np.isfinite(result.summary["best_outer_loss"])


def test_a_bound_without_its_constants_is_refused():
    with pytest.raises(ValueError, match="needs monotonicity"):
        bl.hypergradient(task(), jnp.ones(4), bl.Adaptive(bl.Implicit(accuracy="bound")))


@pytest.mark.slow
def test_in_a_trainer_with_a_solver_that_has_no_tolerance():
    engine = bl.Adaptive(bl.Implicit(linear_solve=bl.Neumann(terms=60, alpha=0.03), accuracy="residual"))
    result = bl.Trainer(optimizer=optax.sgd(0.05), engine=engine, steps=3).fit(task())
    assert result.metrics[-1]["inner/tol"] <= 0.1 and np.isnan(result.metrics[-1]["adjoint/tol"])


def test_refused():
    with pytest.raises(ValueError, match="at least one round"):
        bl.Adaptive(rounds=0)
    with pytest.raises(ValueError, match="every 1, 2"):
        bl.ErrorDriven(every=0)


@pytest.mark.slow
def test_float32():
    with jax.enable_x64(False):
        engine = bl.Adaptive(bl.Implicit(linear_solve=bl.CG()), bl.ErrorDriven())
        single = bl.Task(
            inner=bl.InnerProblem(
                loss=lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2),
                init=lambda key, h: jnp.zeros(2),
                solver=bl.GradientDescent(),
            ),
            outer_loss=lambda w, h, batch: 0.5 * jnp.sum(w**2),
            init_hparams=lambda key: jnp.ones(2),
            batches=bl.full_batch(None, None),
            precision="float32",
        )
        _, grad, report = bl.hypergradient(single, jnp.ones(2), engine)
        assert grad.dtype == jnp.float32 and report.inner_tol.dtype == jnp.float32
        np.testing.assert_allclose(grad, jnp.ones(2), rtol=0.2)
