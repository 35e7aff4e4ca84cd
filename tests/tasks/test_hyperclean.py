"""Hyper-cleaning: exactly half of the labels wrong, most of them found, better than training on all."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.data import DataError
from bilevel.tasks import hyperclean
from bilevel.tasks.hyperclean import detection
from bilevel.training.trainer import Trainer

SMALL: dict[str, Any] = {"train": 300, "validation": 100, "stop": 100}


@pytest.fixture(scope="module")
def task():
    return hyperclean(**SMALL)


@pytest.fixture(scope="module")
def result(task):
    return Trainer(optimizer=optax.adam(0.5), steps=25).fit(task)


@pytest.mark.slow
def test_hypergradient_agrees_with_differences(task, agrees_with_differences):
    hparams = jax.random.normal(jax.random.key(1), (300,))
    agrees_with_differences(task, hparams, rtol=1e-6)


@pytest.mark.slow
def test_cleaning_beats_the_corrupted_set(result):
    summary = result.summary
    assert summary["test_accuracy"] > summary["baseline_corrupted_accuracy"] + 0.02
    assert summary["cleaning_f1"] > 0.8
    assert summary["cleaning_precision"] > 0.8 and summary["cleaning_recall"] > 0.8
    assert summary["baseline_corrupted_accuracy"] < summary["baseline_uncorrupted_accuracy"]
    assert summary["stop_loss"] < summary["initial_stop_loss"]
    for split in ("test", "validation"):
        assert summary[f"baseline_uncorrupted_{split}_loss"] < summary[f"baseline_corrupted_{split}_loss"]
    assert "baseline_validation_validation_loss" not in summary  # the loss on the samples of the fit says nothing


@pytest.mark.slow
def test_figures(task, result, drawn):
    assert drawn(task, result) == {"weights", "worst"}


@pytest.mark.slow
def test_minibatches_average_to_the_full_batch():
    full, small = hyperclean(**SMALL), hyperclean(**SMALL, batch_size=70)
    key, params = jax.random.key(0), jax.random.normal(jax.random.key(2), (65, 10))
    hparams = jax.random.normal(jax.random.key(3), (300,))
    whole, clean = full.batches(key, 0)
    gradient = jax.jit(jax.grad(full.inner.loss, argnums=(0, 1)))
    drawn = [gradient(params, hparams, small.batches(key, step)[0]) for step in range(5)]
    means = jax.tree.map(lambda *gradients: np.mean(gradients, axis=0), *drawn)
    for mean, exact in zip(means, gradient(params, hparams, whole), strict=True):
        assert_allclose(mean, exact, rtol=1e-10, atol=1e-15)
    outer = [small.outer_loss(params, hparams, small.batches(key, step)[1]) for step in range(2)]
    assert_allclose(np.mean(outer), full.outer_loss(params, hparams, clean), rtol=1e-12)


def test_detection_counts():
    corrupted = np.array([True, True, False, False])
    scores = detection(jnp.array([True, False, True, False]), corrupted)
    assert {float(score) for score in scores.values()} == {0.5}
    nothing = detection(jnp.zeros(4, bool), corrupted)
    assert np.isnan(nothing["cleaning/precision"]) and nothing["cleaning/f1"] == 0.0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"data": "diabetes"}, "numbers, not classes"),
        ({"data": "mnist", "root": "/nowhere/at/all"}, "does not exist"),
        ({"corruption": "half"}, "no corruption rule"),
        ({"train": 1700}, "leave none"),
        ({"train": 5}, "raise train"),
    ],
)
def test_refusals_are_one_sentence(settings, match):
    with pytest.raises(DataError, match=match) as problem:
        hyperclean(**settings)
    assert "\n" not in str(problem.value)


def test_published_mnist(data_root):
    task = hyperclean(data="mnist", root=str(data_root))
    whole, _ = task.batches(jax.random.key(0), 0)
    assert whole[0].shape == (900, 785)


@pytest.mark.slow
def test_weights_in_an_l1_ball_stay_there_and_clean():
    """The weights are the hyperparameters themselves, from 0 to 1, and sum to the radius at most."""
    task = hyperclean(**SMALL, radius=150.0)
    result = Trainer(optimizer=optax.sgd(300.0), steps=8).fit(task)
    weights = np.asarray(result.last_hparams)
    assert weights.min() >= 0 and weights.max() <= 1 and weights.sum() <= 150 * (1 + 1e-9)
    assert result.summary["best_outer_loss"] < result.summary["initial_outer_loss"]
