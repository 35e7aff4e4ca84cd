"""What follows from a failed solve: every policy on both solves, every failure provoked and seen."""

import logging
import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl

TARGET = jnp.array([1.0, 2.0, 3.0])


def make(curvature=(1.0, 2.0, 3.0), solver=None, power=2, cold=0.0):
    """min 1/2 sum curvature (w - target)^2 + exp(h)/2 ||w||^2, of which any eigenvalue may be made zero or negative."""

    def loss(w, h, batch):
        return 0.5 * jnp.sum(jnp.asarray(curvature) * jnp.abs(w - TARGET) ** power + jnp.exp(h) * w**2)

    inner = bl.InnerProblem(
        loss=loss, init=lambda key, h: jnp.full(3, cold), solver=bl.Auto() if solver is None else solver
    )
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - 0.5) ** 2),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(None, None),
    )


SLOW = bl.GradientDescent(max_steps=2, tol=1e-12)
HPARAMS = jnp.array(-2.0)


def exact():
    return bl.hypergradient(make(), HPARAMS)[1]


@pytest.mark.slow
def test_an_unconverged_inner_solve_raises_and_names_residual_and_remedy():
    with pytest.raises(bl.ConvergenceError, match=r"inner solve ended with status max_steps after 2 steps .*max_steps"):
        bl.hypergradient(make(solver=SLOW), HPARAMS)


@pytest.mark.slow
def test_where_the_inner_problem_has_no_solution_the_adjoint_is_no_matter():
    task = make(curvature=(-9.0, -9.0, -9.0))
    with pytest.raises(bl.ConvergenceError, match=r"status unbounded after \d+ steps") as caught:
        bl.hypergradient(task, HPARAMS)
    assert "adjoint" not in str(caught.value)


@pytest.mark.slow
def test_an_unconverged_adjoint_solve_raises_with_the_report():
    engine = bl.Implicit(linear_solve=bl.CG(max_steps=1))
    with pytest.raises(bl.ConvergenceError, match=r"adjoint solve ended with status max_steps") as caught:
        bl.hypergradient(make(), HPARAMS, engine)
    assert caught.value.report.adjoint_status.name == "max_steps"


@pytest.mark.parametrize("engine", [bl.Implicit(on_failure="warn"), bl.Unrolled(on_failure="warn")])
def test_warn_uses_the_result_and_says_so(engine):
    with pytest.warns(UserWarning, match="max_steps"):
        _, grad, report = bl.hypergradient(make(solver=SLOW), HPARAMS, engine)
    assert bool(jnp.isfinite(grad))
    assert report.status.name == "max_steps"


FAILING = {
    "inner": ({"solver": bl.GradientDescent(max_steps=2, tol=1e-12)}, {}),
    "adjoint": ({}, {"linear_solve": bl.CG(max_steps=1)}),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("solve", FAILING)
@pytest.mark.parametrize("policy", ["raise", "warn", "retry", "skip"])
def test_every_policy_on_both_solves_is_in_log_and_summary(solve, policy, caplog):
    problem, settings = FAILING[solve]
    trainer = bl.Trainer(optimizer=optax.sgd(0.1), engine=bl.Implicit(on_failure=policy, **settings), steps=2)
    task = make(**problem)
    if policy == "raise":
        with pytest.raises(bl.ConvergenceError, match=f"{solve} solve ended with status max_steps"):
            trainer.fit(task)
        return
    with warnings.catch_warnings(record=True) as told, caplog.at_level(logging.WARNING, logger="bilevel"):
        warnings.simplefilter("always")
        result = trainer.fit(task)
    line, moved = result.metrics[0], float(jnp.abs(result.last_hparams)) > 0
    status = "converged" if policy == "retry" else "max_steps"
    assert line[f"{solve}/status"] == status
    assert (line["engine/skipped"], line["engine/retries"]) == {"warn": (0, 0), "skip": (1, 0), "retry": (0, 1)}[policy]
    assert moved == (policy != "skip")
    assert (result.summary["steps_skipped"] > 0) == (policy == "skip")
    assert (result.summary["retries"] > 0) == (policy == "retry")
    assert any("max_steps" in str(one.message) for one in told) == (policy == "warn")
    assert ("retry 1" in caplog.text) == (policy == "retry")


def test_skip_gives_no_number_that_could_be_used(caplog):
    with caplog.at_level(logging.WARNING, logger="bilevel"):
        value, grad, report = bl.hypergradient(make(solver=SLOW), HPARAMS, bl.Implicit(on_failure="skip"))
    assert bool(jnp.isfinite(value))
    assert bool(jnp.isnan(grad))
    assert int(report.skipped) == 1
    assert "Skipped: The inner solve ended with status max_steps" in caplog.text


@pytest.mark.slow
def test_retry_solves_an_inner_problem_with_more_steps(caplog):
    slow = bl.GradientDescent(max_steps=40, tol=1e-12)
    with caplog.at_level(logging.WARNING, logger="bilevel"):
        _, grad, report = bl.hypergradient(make(solver=slow, curvature=(1.0, 2.0, 30.0)), HPARAMS, RETRY)
    plain = make(curvature=(1.0, 2.0, 30.0))
    np.testing.assert_allclose(grad, bl.hypergradient(plain, HPARAMS)[1], rtol=1e-8)
    assert int(report.retries) == 1
    assert "Retry 1 (more inner and adjoint steps)" in caplog.text
    assert int(report.counts.gradients) > 40  # the work of the failed attempt is in it


RETRY = bl.Implicit(on_failure="retry")


@pytest.mark.slow
def test_retry_gives_the_adjoint_more_steps_and_then_another_linear_solver():
    engine = bl.Implicit(on_failure="retry", linear_solve=bl.CG(max_steps=1))
    _, grad, report = bl.hypergradient(make(), HPARAMS, engine)
    np.testing.assert_allclose(grad, exact(), rtol=1e-8)
    assert int(report.retries) == 1


@pytest.mark.slow
def test_retry_that_nothing_helps_raises_and_counts_what_was_tried():
    broken = make(curvature=(1.0, jnp.nan, 1.0))
    with pytest.raises(bl.ConvergenceError, match=r"4 retries did not help"):
        bl.hypergradient(broken, HPARAMS, RETRY)


@pytest.mark.slow
def test_an_indefinite_system_is_told_and_cured_by_another_linear_solver():
    """At a saddle of the inner loss CG meets negative curvature; a solver for indefinite systems solves it."""

    def residual(w, h, batch):
        return jnp.array([1.0, -2.0, 3.0]) * (w - TARGET) + jnp.exp(h) * w

    inner = bl.InnerProblem.from_residual(residual, init=lambda key, h: jnp.zeros(3))
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - 0.5) ** 2),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(None, None),
    )
    with pytest.raises(bl.ConvergenceError, match=r"indefinite.*bl\.MINRES"):
        bl.hypergradient(task, HPARAMS, bl.Implicit(linear_solve=bl.CG()))
    grads = [
        bl.hypergradient(task, HPARAMS, bl.Implicit(linear_solve=solver))[1] for solver in (bl.MINRES(), bl.Dense())
    ]
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-9)
    retried = bl.hypergradient(task, HPARAMS, bl.Implicit(linear_solve=bl.CG(), on_failure="retry"))
    np.testing.assert_allclose(retried[1], grads[1], rtol=1e-6)
    assert int(retried[2].retries) >= 2


@pytest.mark.slow
def test_a_singular_system_is_told():
    def loss(w, h, batch):
        return 0.5 * (w[0] - jnp.exp(h)) ** 2 + 0.0 * w[1]

    inner = bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(2), solver=bl.GradientDescent(tol=1e-10))
    task = bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: jnp.sum(w),  # sees the unknown that the inner loss does not determine
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(None, None),
    )
    for linear_solve in (bl.Dense(), bl.CG(), bl.MINRES()):
        with pytest.raises(bl.ConvergenceError, match="singular"):
            bl.hypergradient(task, HPARAMS, bl.Implicit(linear_solve=linear_solve))


@pytest.mark.slow
def test_a_diverging_solver_is_told():
    with pytest.raises(bl.ConvergenceError, match=r"inner solve ended with status (diverged|nonfinite)"):
        bl.hypergradient(make(solver=bl.GradientDescent(step_size=10.0)), HPARAMS)


@pytest.mark.slow
def test_nan_never_becomes_a_number():
    engine = bl.Implicit(on_failure="warn")
    with pytest.warns(UserWarning, match="nonfinite"):
        _, grad, report = bl.hypergradient(make(curvature=(1.0, jnp.nan, 1.0)), HPARAMS, engine)
    assert bool(jnp.isnan(grad))
    assert not bool(report.error_estimate < 1e300)


def test_a_trainer_skips_counts_and_goes_on():
    failing = bl.Implicit(on_failure="skip", linear_solve=bl.CG(max_steps=1))
    result = bl.Trainer(optimizer=optax.sgd(0.1), engine=failing, steps=3).fit(make())
    assert result.summary["steps_skipped"] >= 3
    assert [line["engine/skipped"] for line in result.metrics] == [1, 1, 1]
    np.testing.assert_allclose(result.last_hparams, 0.0)


@pytest.mark.slow
def test_a_trainer_retries_and_records_it():
    engine = bl.Implicit(on_failure="retry", linear_solve=bl.CG(max_steps=1))
    result = bl.Trainer(optimizer=optax.sgd(0.1), engine=engine, steps=2).fit(make())
    assert result.metrics[0]["engine/retries"] == 1
    assert result.summary["retries"] >= 1
    assert result.summary["steps_skipped"] == 0


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="raise, warn, retry, skip"):
        bl.Implicit(on_failure="ignore")


@pytest.mark.sample(1)
@pytest.mark.parametrize(("which", "name"), [(0, "inner"), (1, "outer")])
def test_nan_in_the_data_is_named(which, name):
    """The loss, the leaf and how many entries, instead of what follows from them."""

    def error(w, h, batch):
        return 0.5 * jnp.mean((batch["x"] @ w - batch["y"]) ** 2)

    def part(spoiled):
        y = jnp.arange(4.0).at[2].set(jnp.nan) if spoiled else jnp.arange(4.0)
        return {"x": jnp.eye(4)[:, :2] + 0.1, "y": y}

    inner = bl.InnerProblem(
        loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2), init=lambda key, h: jnp.zeros(2)
    )
    batches = bl.full_batch(part(which == 0), part(which == 1))
    task = bl.Task(inner=inner, outer_loss=error, init_hparams=lambda key: jnp.zeros(()), batches=batches)
    with pytest.raises(
        bl.ConvergenceError, match=rf"data of the {name} loss .* 1 of 4 entries of the leaf batch\['y'\]"
    ):
        bl.hypergradient(task, jnp.zeros(()))
