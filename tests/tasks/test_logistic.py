"""Logistic regression: each kind of penalty, the shrinkage, and the overfitting that the second hold-out shows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.tasks import logistic
from bilevel.tasks.logistic import penalty_shape
from bilevel.training.trainer import Trainer

SMALL: dict[str, Any] = {"train": 200, "validation": 100, "stop": 100}
SHAPES = {"single": (1, 1), "per_class": (1, 10), "per_feature": (65, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("penalties", SHAPES)
def test_hypergradient_agrees_with_differences(penalties, agrees_with_differences):
    task = logistic(penalties=penalties, shrinkage=0.01, **SMALL)
    hparams = -4.0 + 0.5 * jax.random.normal(jax.random.key(1), SHAPES[penalties])
    agrees_with_differences(task, hparams, rtol=1e-6)


@pytest.mark.parametrize("penalties", SHAPES)
def test_penalties_broadcast_over_the_parameters(penalties):
    task = logistic(penalties=penalties, **SMALL)
    hparams = task.init_hparams(jax.random.key(0)) + jnp.arange(np.prod(SHAPES[penalties])).reshape(SHAPES[penalties])
    batch, _ = task.batches(jax.random.key(0), 0)
    params = jax.random.normal(jax.random.key(1), (65, 10))
    no_penalty = task.inner.loss(params, jnp.full(SHAPES[penalties], -jnp.inf), batch)
    expected = 0.5 * np.sum(np.exp(np.broadcast_to(hparams, (65, 10))) * np.asarray(params) ** 2)
    assert_allclose(task.inner.loss(params, hparams, batch) - no_penalty, expected, rtol=1e-12)


@pytest.fixture(scope="module")
def task():
    return logistic(**SMALL, start=-6.0)


@pytest.fixture(scope="module")
def result(task):
    return Trainer(optimizer=optax.adam(0.3), steps=25).fit(task)


@pytest.mark.slow
def test_training_reaches_the_best_single_penalty(result):
    summary = result.summary
    assert summary["best_outer_loss"] < 1.02 * summary["baseline_validation_loss"]
    assert summary["test_accuracy"] > 0.9
    assert {"test_loss", "stop_loss", "baseline_test_accuracy", "baseline_penalty"} <= summary.keys()


@pytest.mark.slow
def test_hyperparameters_stay_in_their_box(task, result):
    assert_allclose(task.feasible(jnp.array([-20.0, 0.5, 9.0])), [-10.0, 0.5, 2.0])
    assert np.all(np.asarray(result.last_hparams) >= -10.0)


@pytest.mark.slow
def test_figures(task, result, drawn):
    assert drawn(task, result) == {"hyperparameters"}


def test_the_prior_pulls_towards_mean_or_start():
    hparams = jnp.array([[-5.0, -4.0, -3.0, -4.0, -5.0, -3.0, -4.0, -4.0, -4.0, -4.0]])
    assert_allclose(logistic(shrinkage=0.5, **SMALL).prior(hparams), 0.25 * 4.0)
    assert_allclose(logistic(shrinkage=0.5, towards="start", **SMALL).prior(hparams), 0.25 * (6 + 4 * 2))
    assert logistic(**SMALL).prior(hparams) == 0.0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"penalties": "each"}, "choose one of single, per_class, per_feature"),
        ({"towards": "zero"}, "choose one of mean, start"),
        ({"start": 5.0}, "does not lie between"),
    ],
)
def test_refusals(settings, match):
    with pytest.raises(ValueError, match=match):
        logistic(**settings)


def test_shapes_by_name():
    assert {name: penalty_shape(name, 65, 10) for name in SHAPES} == SHAPES


@pytest.mark.slow
def test_a_penalty_for_each_feature_overfits_and_shrinkage_cures_it():
    fit = Trainer(optimizer=optax.adam(0.2), steps=40).fit
    free = fit(logistic(penalties="per_feature"))
    shrunk = fit(logistic(penalties="per_feature", shrinkage=3e-3))
    validation = [line["outer/loss"] for line in free.metrics]
    stop = [line["stop/loss"] for line in free.metrics]
    assert validation[-1] < 0.7 * validation[20] and stop[-1] > 1.15 * min(stop)
    assert free.summary["test_loss"] < free.summary["last_test_loss"]  # the second hold-out chose an earlier step
    assert shrunk.summary["last_test_loss"] < 0.85 * free.summary["last_test_loss"]
