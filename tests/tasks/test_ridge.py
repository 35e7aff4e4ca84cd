"""Ridge: value, solution and hypergradient in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.data import DataError
from bilevel.engines.hypergradients import hypergradient
from bilevel.tasks import ridge
from bilevel.tasks.ridge import closed_form
from bilevel.training.trainer import Trainer

HPARAMS = np.linspace(-4.0, 1.0, 10)


@pytest.fixture(scope="module")
def task():
    return ridge()


@pytest.fixture(scope="module")
def result(task):
    return Trainer(optimizer=optax.adam(0.1), steps=60).fit(task)


@pytest.mark.slow
def test_value_and_hypergradient_in_closed_form(task):
    (x, y), (x_outer, y_outer) = task.batches(jax.random.key(0), 0)
    penalties = np.exp(HPARAMS)
    params = closed_form((x, y), penalties)
    error = x_outer @ params - y_outer
    adjoint = np.linalg.solve(x.T @ x / len(y) + np.diag(penalties), x_outer.T @ error / len(y_outer))
    value, grad, report = hypergradient(task, jnp.asarray(HPARAMS))
    assert_allclose(report.params, params, rtol=1e-10)
    assert_allclose(value, 0.5 * np.mean(error**2), rtol=1e-12)
    assert_allclose(grad, -penalties * params * adjoint, rtol=1e-8, atol=1e-12)


def test_training_beats_the_start_and_one_penalty(result):
    summary = result.summary
    assert summary["best_outer_loss"] < 0.97 * summary["initial_outer_loss"]
    assert summary["test_loss"] < summary["baseline_test_loss"]
    assert_allclose(summary["test_r2"], 0.407, atol=0.01)


def test_figures(task, result, drawn):
    assert drawn(task, result) == {"hyperparameters"}


def test_standardised_with_training_statistics(task):
    (x, y), _ = task.batches(jax.random.key(0), 0)
    assert_allclose(x.mean(axis=0), 0.0, atol=1e-13)
    assert_allclose([y.mean(), y.std()], [0.0, 1.0], atol=1e-13)


def test_refuses_classes_and_impossible_sizes():
    with pytest.raises(DataError, match="classes, not numbers"):
        ridge(data="digits")
    with pytest.raises(DataError, match="leave none for the test set"):
        ridge(train=400)
