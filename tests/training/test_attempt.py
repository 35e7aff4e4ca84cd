"""An outer step that leads to where nothing can be solved is shortened first; NaN is never stepped on."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.training.fit import Fit


def program(**more):
    """w in [h, 1], which is empty for h > 1, and the outer loss wants h to be large."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2),
        init=lambda key, h: jnp.zeros(1),
        constraint=bl.Functional(inequality=lambda w, h, batch: jnp.concatenate([h["lower"] - w, w - 1.0])),
    )
    statement = {
        "inner": inner,
        "outer_loss": lambda w, h, batch: 0.5 * jnp.sum((w - 3.0) ** 2),
        "init_hparams": lambda key: {"lower": jnp.zeros(1)},
        "batches": bl.full_batch(-1.0, None),
    }
    return bl.Task(**{**statement, **more})


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_steps_out_of_the_feasible_region_are_shortened_until_they_stay_in_it(policy, caplog):
    trainer = bl.Trainer(optimizer=optax.adam(0.2), steps=60, engine=bl.Implicit(on_failure=policy))
    result = trainer.fit(program())
    np.testing.assert_allclose(result.hparams["lower"], 1.0, atol=1e-3)
    np.testing.assert_allclose(result.last_hparams["lower"], 1.0, atol=1e-3)
    assert result.summary["status"] in ("completed", "stopped_at_border")  # which, the tolerance of the program decides
    assert result.summary["steps_shortened"] > 0
    assert result.summary["steps_skipped"] <= 1  # not the same step again and again
    assert "of its length is taken instead" in caplog.text


def quadratic(**more):
    statement = {
        "inner": bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2, init=lambda key, h: jnp.zeros(())
        ),
        "outer_loss": lambda w, h, batch: 0.5 * (w - batch) ** 2,
        "init_hparams": lambda key: jnp.zeros(()),
        "batches": bl.full_batch(4.0, 1.0),
    }
    return bl.Task(**{**statement, **more})


def cliff(h):
    """NaN beyond 0.5, where the optimum is log 3."""
    return 0.0 * jnp.log(jnp.where(h > 0.5, -1.0, 1.0)) + 0.0 * h


@pytest.mark.slow
def test_a_number_that_is_not_finite_shortens_the_step_too():
    result = bl.Trainer(optimizer=optax.adam(0.1), steps=30).fit(quadratic(prior=cliff))
    assert 0.45 < float(result.hparams) <= 0.5
    assert all(np.isfinite(line["outer/loss"]) for line in result.metrics if not line["engine/skipped"])
    assert result.summary["steps_shortened"] > 0


@pytest.mark.slow
def test_a_shortened_step_has_all_the_work_in_its_counts_and_the_next_ones_are_shorter():
    result = bl.Trainer(optimizer=optax.sgd(2.0), steps=4).fit(quadratic(prior=cliff))
    assert result.summary["status"] == "stopped_at_border"  # at 0.5, exactly
    halved = [line for line in result.metrics if line["outer/halvings"]]
    plain = next(line for line in result.metrics if not line["outer/halvings"])
    assert halved[0]["counts/gradients"] > halved[0]["outer/halvings"] * plain["counts/gradients"] / 2
    assert result.summary["counts"]["gradients"] >= sum(line["counts/gradients"] for line in result.metrics)


@pytest.mark.slow
def test_too_few_inner_steps_raise_at_once():
    """No shorter step is a cure for a limit of steps: the user is told to raise it."""
    limits = bl.GradientDescent(step_size=0.3, max_steps=9, tol=1e-3)
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.exp(-h) * (w - batch) ** 2, init=lambda key, h: jnp.zeros(()), solver=limits
    )
    with pytest.raises(bl.ConvergenceError, match="max_steps") as caught:
        bl.Trainer(optimizer=optax.sgd(1.0), steps=50).fit(
            quadratic(inner=inner, warm_start=False, prior=lambda h: -h), key=jax.random.key(0)
        )
    assert "Shorter steps" not in str(caught.value)


@pytest.mark.slow
def test_a_run_that_was_shortened_is_resumed_to_the_same_end(tmp_path):
    trainer = bl.Trainer(optimizer=optax.adam(0.1), steps=20)
    whole = trainer.fit(quadratic(prior=cliff), directory=tmp_path / "whole")
    for steps in (7, 12, 20):
        parts = bl.Trainer(optimizer=optax.adam(0.1), steps=steps).fit(
            quadratic(prior=cliff), directory=tmp_path / "parts", resume=True
        )
    assert float(whole.last_hparams) == float(parts.last_hparams)
    lines = [[line["outer/loss"] for line in result.metrics] for result in (whole, parts)]
    np.testing.assert_array_equal(lines[0], lines[1])
    assert whole.summary["status"] == parts.summary["status"]


def test_the_step_is_compiled_once_however_often_it_is_shortened(tmp_path):
    from contextlib import ExitStack

    with ExitStack() as stack:
        fit = Fit(bl.Trainer(optimizer=optax.sgd(2.0), steps=4), quadratic(prior=cliff), jax.random.key(0), None, stack)
        result = fit.run(False, {})
    assert result.summary["steps_shortened"] > 0
    assert fit.advance.traces == 1


def mixed(kind):
    return {"penalty": jnp.zeros(2, kind), "idle": jnp.zeros(2, kind)}


@pytest.mark.slow
def test_an_update_that_is_not_finite_is_refused_by_name(caplog):
    """In float16 the epsilon of Adam is 0: a gradient of 0 gives 0 / 0."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(jnp.sum(h["penalty"])) * w**2,
        init=lambda key, h: jnp.zeros(()),
    )
    half = quadratic(
        inner=inner, init_hparams=lambda key: mixed(jnp.float16), prior=lambda h: jnp.sum(h["idle"] ** 2).astype(float)
    )
    with pytest.raises(bl.ConvergenceError, match=r"optimiser's step made hparams\['idle'\] NaN .*float16"):
        bl.Trainer(steps=3).fit(half)
    with caplog.at_level(logging.WARNING, logger="bilevel"):
        result = bl.Trainer(steps=3, engine=bl.Implicit(on_failure="skip")).fit(half)
    assert result.summary["status"] == "failed"
    assert "None of 3 outer steps could be used" in result.summary["failed_because"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.last_hparams))


@pytest.mark.sample(1)
@pytest.mark.parametrize("policy", ["warn", "skip"])
@pytest.mark.filterwarnings("ignore:Outer step")
def test_a_run_without_a_usable_step_has_failed_and_its_result_was_solved(policy):
    vector = quadratic(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(jnp.sum(h)) * w**2,
            init=lambda key, h: jnp.zeros(()),
        ),
        init_hparams=lambda key: jnp.zeros(3),
        prior=lambda h: 0.1 * jnp.std(h),
    )
    result = bl.Trainer(steps=4, engine=bl.Implicit(on_failure=policy)).fit(vector)
    assert result.summary["status"] == "failed"
    assert result.summary["steps_skipped"] == 4
    assert "with respect to hparams is not a finite number" in result.summary["failed_because"]
    np.testing.assert_allclose(result.params, 2.0, rtol=1e-8)  # not the cold start
    np.testing.assert_array_equal(result.hparams, np.zeros(3))


@pytest.mark.slow
def test_a_batch_that_fails_by_itself_is_no_border():
    """Where the hyperparameters of the last step fail too, on the batch of this one, the step is not to blame."""
    batches = lambda key, step: (4.0, jnp.where(step == 2, jnp.nan, 1.0))
    with pytest.raises(bl.ConvergenceError, match="Outer step 2: The data of the outer loss hold NaN or infinity"):
        bl.Trainer(optimizer=optax.sgd(0.1), steps=4).fit(quadratic(batches=batches))
