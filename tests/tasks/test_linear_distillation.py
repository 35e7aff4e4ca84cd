"""Linear distillation: the derivative in the pairs, and the full-data solution as the fixed point of learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.engines.hypergradients import hypergradient
from bilevel.tasks import linear_distillation
from bilevel.training.trainer import Trainer


@pytest.fixture(scope="module")
def task():
    return linear_distillation(data="wine", train=100, penalty=1.0)


@pytest.mark.slow
def test_hypergradient_agrees_with_differences(task, agrees_with_differences):
    agrees_with_differences(task, task.init_hparams(jax.random.key(1)), rtol=1e-6)


def test_pairs_that_give_the_full_solution_are_stationary(task):
    """x = full' spans the solution: with K = x x' and the targets (K + 3 inner_penalty) a for w = x'a = full."""
    gram, cross = task.batches(jax.random.key(0), 0)[1]
    values, vectors = np.linalg.eigh(gram + np.eye(len(gram)))
    rounding = vectors / np.sqrt(values) @ vectors.T
    full = np.linalg.solve(gram + np.eye(len(gram)), cross)
    images = np.linalg.solve(rounding, full).T  # so that images @ rounding = full'
    targets = full.T @ full + 3 * 0.1 * np.eye(3)
    hparams = {"images": jnp.asarray(images), "targets": jnp.asarray(targets)}
    _, grad, report = hypergradient(task, hparams)
    assert_allclose(report.params, np.eye(3), atol=1e-8)
    assert float(task.evaluate(report.params, hparams)["full/distance"]) < 1e-8
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(grad)) < 1e-8


@pytest.mark.slow
def test_learning_comes_near_the_full_solution(task, drawn):
    result = Trainer(optimizer=optax.adam(0.05), steps=600).fit(task)
    assert result.summary["baseline_full_outer_loss"] <= result.summary["best_outer_loss"]
    assert result.summary["best_outer_loss"] < result.summary["baseline_full_outer_loss"] * 1.01
    assert result.summary["full_distance"] < 0.1 * result.summary["initial_full_distance"]
    assert drawn(task, result) == {"images"}
