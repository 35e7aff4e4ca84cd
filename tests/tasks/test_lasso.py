"""The lasso: the derivative on the support in closed form, the penalty a grid would have found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.engines.hypergradients import hypergradient
from bilevel.tasks import lasso
from bilevel.training.trainer import Trainer


@pytest.fixture(scope="module")
def task():
    return lasso(noise_features=30)


@pytest.fixture(scope="module")
def result(task):
    return Trainer(optimizer=optax.adam(0.2), steps=30).fit(task)


def test_hypergradient_on_the_support_in_closed_form(task):
    (x, y), (x_outer, y_outer) = task.batches(jax.random.key(0), 0)
    weight = 0.05
    value, grad, report = hypergradient(task, jnp.log(weight))
    params = np.asarray(report.params)
    support = params != 0
    assert 3 < support.sum() < 30
    gram = x[:, support].T @ x[:, support] / len(y)
    signs = np.sign(params[support])
    expected = np.linalg.solve(gram, x[:, support].T @ y / len(y) - weight * signs)  # the optimality condition
    assert_allclose(params[support], expected, rtol=1e-7, atol=1e-9)
    error = x_outer @ params - y_outer
    adjoint = np.linalg.solve(gram, x_outer[:, support].T @ error / len(y_outer))
    assert_allclose(value, 0.5 * np.mean(error**2), rtol=1e-8)
    assert_allclose(grad, -weight * adjoint @ signs, rtol=1e-7)


def test_hypergradient_agrees_with_differences(task, agrees_with_differences):
    agrees_with_differences(task, jnp.log(0.05), rtol=1e-5, step=1e-4)


@pytest.mark.slow
def test_training_finds_the_penalty_of_the_grid(result):
    summary = result.summary
    assert summary["test_loss"] < 0.9 * summary["initial_test_loss"]
    assert abs(summary["test_loss"] / summary["baseline_test_loss"] - 1) < 0.03
    assert summary["lasso_selected"] < summary["initial_lasso_selected"]


@pytest.mark.slow
def test_figures(task, result, drawn):
    assert drawn(task, result) == {"coefficients"}
