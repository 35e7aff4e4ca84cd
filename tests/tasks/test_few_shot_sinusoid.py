"""Few-shot sinusoids: the meta-gradient, new tasks at each step, adaptation that improves on held-out tasks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bilevel.tasks import few_shot_sinusoid
from bilevel.tasks.few_shot_sinusoid import drawn as draw_points
from bilevel.training.trainer import Trainer

SMALL: dict[str, Any] = {"sinusoids": 4, "held_out": 6, "width": 10}


@pytest.fixture(scope="module")
def task():
    return few_shot_sinusoid(**SMALL, tol=1e-9)


@pytest.fixture(scope="module")
def result(task):
    return Trainer(optimizer=optax.adam(0.02), steps=40).fit(task)


@pytest.mark.slow
def test_hypergradient_agrees_with_differences(task, agrees_with_differences):
    agrees_with_differences(task, task.init_hparams(jax.random.key(1)), rtol=1e-5, step=1e-4)


def test_points_lie_on_sinusoids():
    support, query = draw_points(jax.random.key(0), 5, 10, 7)
    assert support.x.shape == (5, 10, 1) and query.y.shape == (5, 7, 1)
    for sinusoid in range(5):  # y = b sin x + c cos x fits exactly
        x, y = (
            np.concatenate([support.x, query.x], 1)[sinusoid],
            np.concatenate([support.y, query.y], 1)[sinusoid, :, 0],
        )
        basis = np.hstack([np.sin(x), np.cos(x)])
        coefficients, *_ = np.linalg.lstsq(basis, y)
        assert_allclose(basis @ coefficients, y, atol=1e-12)
        assert 0.1 <= np.hypot(*coefficients) <= 5.0


def test_each_step_draws_new_sinusoids_beside_the_held_out(task):
    assert not task.warm_start
    (first, _), (second, _) = (task.batches(jax.random.key(0), step) for step in (0, 1))
    assert not np.allclose(first.x[:4], second.x[:4])
    assert_allclose(first.x[4:], second.x[4:])


def test_the_network_has_the_precision_of_the_task(task):
    assert {leaf.dtype for leaf in jax.tree.leaves(task.init_hparams(jax.random.key(0)))} == {jnp.dtype("float64")}
    with jax.enable_x64(False):
        assert {leaf.dtype for leaf in jax.tree.leaves(task.init_hparams(jax.random.key(0)))} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_held_out_sinusoids_do_not_enter_the_outer_loss(task):
    hparams = task.init_hparams(jax.random.key(1))
    params = task.inner.init(jax.random.key(0), hparams)
    _, query = task.batches(jax.random.key(0), 0)
    gradient = jax.grad(task.outer_loss)(params, hparams, query)
    assert all(jnp.all(leaf[4:] == 0) and jnp.any(leaf[:4] != 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_adaptation_to_held_out_sinusoids_improves(result):
    assert result.summary["last_test_loss"] < 0.75 * result.summary["initial_test_loss"]
    assert result.summary["last_test_loss"] < result.summary["last_test_loss_unadapted"]


@pytest.mark.slow
def test_figures(task, result, drawn):
    assert drawn(task, result) == {"adaptation"}
