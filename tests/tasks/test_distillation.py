"""Distillation: the derivative in the images, and images that teach better than real ones."""

import jax
import jax.numpy as jnp
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.engines.hypergradients import hypergradient
from bilevel.tasks import distillation
from bilevel.training.trainer import Trainer


@pytest.fixture(scope="module")
def task():
    return distillation(train=400)


@pytest.fixture(scope="module")
def result(task):
    return Trainer(optimizer=optax.adam(0.05), steps=40).fit(task)


@pytest.mark.slow
def test_hypergradient_agrees_with_differences(task, agrees_with_differences):
    agrees_with_differences(task, 0.5 * jax.random.normal(jax.random.key(1), (10, 64)), rtol=1e-5)


def test_ten_images_teach_a_classifier(result):
    summary = result.summary
    assert result.hparams.shape == (10, 64)
    assert summary["initial_test_accuracy"] < 0.3 and summary["test_accuracy"] > 0.85
    assert summary["baseline_real_accuracy"] > 0.9
    assert summary["baseline_real_validation_loss"] < summary["baseline_real_test_loss"] < summary["test_loss"]


def test_figures(task, result, drawn):
    assert drawn(task, result) == {"images"}


@pytest.mark.slow
def test_more_images_per_class_and_minibatches():
    task = distillation(train=400, images_per_class=2, batch_size=50)
    hparams = task.init_hparams(jax.random.key(0))
    assert hparams.shape == (20, 64)
    _, real = task.batches(jax.random.key(0), 3)
    assert real[0].shape == (50, 65)


@pytest.mark.slow
def test_the_kernel_form_has_the_same_solution_and_hypergradient(task):
    images = 0.5 * jax.random.normal(jax.random.key(2), (10, 64))
    kernel = distillation(train=400, form="kernel")
    value, grad, report = hypergradient(task, images)
    value_kernel, grad_kernel, report_kernel = hypergradient(kernel, images)
    with_ones = jnp.concatenate([images, jnp.ones((10, 1))], axis=1)
    assert_allclose(with_ones.T @ report_kernel.params, report.params, atol=1e-7)
    assert_allclose(value_kernel, value, rtol=1e-8)
    assert_allclose(grad_kernel, grad, atol=1e-6 * float(jnp.max(jnp.abs(grad))))


def test_an_unknown_form_and_shares(task):
    with pytest.raises(ValueError, match="task.form=dual: choose one of primal, kernel"):
        distillation(form="dual")
    _, real = distillation(train=0.25, stop=0.1).batches(jax.random.key(0), 0)
    assert len(real[1]) == 449
