"""Distillation by kernels: the hypergradient, learned images that beat real ones, and what cannot be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import data
from bilevel.data import DataError, DataSet
from bilevel.tasks import kernel_distillation
from bilevel.tasks.learned_images import mean_images, random_images, starting_images
from bilevel.tasks.representations import representation

small = functools.partial(kernel_distillation, train=300, stop=60, network_steps=30, seeds=2)


@pytest.mark.parametrize("kernel", ["ntk", pytest.param("rbf", marks=pytest.mark.slow)])
def test_the_hypergradient_is_that_of_the_solution_written_out(kernel):
    """At real images, each of which is among those that the loss is measured on: where the tangent kernel has kinks."""
    task = small(kernel=kernel, images_per_class=2)
    hparams = task.init_hparams(jax.random.key(0))
    assert {name: value.shape for name, value in hparams.items()} == {"images": (20, 64), "labels": (20, 10)}
    inner, outer = task.batches(jax.random.key(0), 0)
    loss = task.inner.loss

    def written_out(hparams):
        params = jnp.linalg.solve(loss.matrix(hparams, inner), loss.linear(hparams, inner))
        return task.outer_loss(params, hparams, outer)

    value, grad, report = bl.hypergradient(task, hparams, bl.ClosedForm())
    expected, slope = jax.jit(jax.value_and_grad(written_out))(hparams)
    assert report.status.name == "converged" and all(np.isfinite(leaf).all() for leaf in grad.values())
    assert_allclose(value, expected, rtol=1e-10)
    for name in hparams:
        assert_allclose(grad[name], slope[name], atol=1e-9 * float(jnp.max(jnp.abs(slope[name]))))


@pytest.mark.slow
def test_learned_images_teach_more_than_real_ones(drawn):
    task = small(images_per_class=2, kernel="rbf")
    result = bl.Trainer(optimizer=optax.adam(0.02), engine=bl.ClosedForm(), steps=40).fit(task)
    summary = result.summary
    assert summary["test_accuracy"] > max(summary["baseline_random"], summary["baseline_means"], 0.93)
    assert summary["baseline_random"] < summary["baseline_all"] and summary["baseline_all"] > 0.95
    losses = [summary[f"baseline_{name}_test_loss"] for name in ("all", "means", "random")]
    assert 0 < losses[0] < losses[1] < losses[2]
    assert 0.3 < summary["network_test_accuracy"] < 1 and summary["network_deviation"] >= 0
    assert summary["baseline_random_network"] < summary["baseline_all_network"]
    assert drawn(task, result) == {"images", "learned", "labels", "accuracies"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"head": "softmax", "kernel": "linear", "learn": "both"},
        {"head": "softmax", "kernel": "linear", "learn": "images", "batch_size": 100},
        {"features": "random", "kernel": "linear"},
        {"features": "trained", "features_steps": 20, "head": "softmax", "kernel": "linear", "learn": "labels"},
        {"network": "convolutional", "precision": "float32"},
    ],
)
def test_other_heads_and_features(settings, drawn):
    task = small(**settings)
    engine = bl.Implicit() if settings.get("head") == "softmax" else bl.ClosedForm()
    result = bl.Trainer(optimizer=optax.adam(0.02), engine=engine, steps=15).fit(task)
    assert result.summary["test_accuracy"] > result.summary["initial_test_accuracy"]
    assert set(result.hparams) == {"both": {"images", "labels"}}.get(
        settings.get("learn", "both"), {settings.get("learn")}
    )
    assert drawn(task, result) >= {"images", "accuracies"}


@pytest.mark.slow
def test_the_softmax_head_is_the_regression_in_the_primal():
    """k(x, z) = x'z/d + bias^2 has the features [x / sqrt(d), bias], whose weights are W = F' L'^{-1} w."""
    task = small(head="softmax", kernel="linear", bias=1.0, penalty=1e-2, learn="images")
    hparams = task.init_hparams(jax.random.key(0))
    value = bl.hypergradient(task, hparams, bl.Implicit())[0]
    splits = data.split(data.classification("digits"), 300, 60, 0, 0)
    points = representation("pixels", splits.train, 1, 0)(hparams["images"])
    features = jnp.concatenate([points / 8, jnp.ones((10, 1))], axis=1)
    size = jnp.sum(features**2) / 10

    def primal(weights, hparams, batch):
        logits = features @ weights / jnp.sqrt(size)
        fit = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(10)))
        return fit + 0.5 * 1e-2 * jnp.sum(weights**2)

    weights = bl.InnerProblem(loss=primal, init=lambda key, h: jnp.zeros((65, 10))).solve((), ()).params
    _, (inputs, labels) = task.batches(jax.random.key(0), 0)
    logits = jnp.concatenate([inputs / 8, np.ones((300, 1))], axis=1) @ weights / jnp.sqrt(size)
    expected = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)))
    assert_allclose(value, expected, rtol=1e-6)


def test_where_images_start():
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0], [9.0, 0.0]])
    inputs = np.repeat(centres, 5, axis=0) + 0.1 * random.normal(size=(20, 2))
    real = DataSet(inputs, np.repeat([0, 1], 10), 2)
    clusters = mean_images(real, 2, 0).reshape(2, 2, 2)
    for found, members in zip(clusters, inputs.reshape(2, 2, 5, 2), strict=True):
        assert_allclose(sorted(map(tuple, found)), sorted(map(tuple, members.mean(axis=1))), atol=1e-12)
    picked = random_images(real, 3, 1).reshape(2, 3, 2)
    for label in (0, 1):
        assert all((image == real.inputs[real.targets == label]).all(axis=1).any() for image in picked[label])
    assert starting_images("noise", real, 3, 0).shape == (6, 2)


def test_too_few_images_are_refused_in_one_sentence():
    with pytest.raises(
        DataError, match=r"task.images_per_class=40 needs as many real images of each class, and class \d"
    ):
        small(images_per_class=40)
