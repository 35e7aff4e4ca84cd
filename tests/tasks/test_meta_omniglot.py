"""Few-shot characters: episodes, the ridge head against its normal equations, the hypergradient, what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.tasks import episodes, meta_omniglot
from bilevel.tasks.meta_omniglot import guesses, nearest

SMALL: dict[str, Any] = {
    "data": "digits", "way": 3, "shots": 2, "queries": 2, "lanes": 2, "held_out": 4, "rotations": False, "pool": 1,
    "test_episodes": 20,
}  # fmt: skip


def test_an_episode_has_each_image_once_and_classes_apart():
    images = np.arange(6 * 7, dtype=np.float32).reshape(6, 7, 1, 1)
    shape = episodes.Shape(way=4, shots=2, queries=3)
    support, query = episodes.drawn_episode(jax.random.key(0), jnp.asarray(images), shape)
    seen = np.concatenate([support.ravel(), query.ravel()])
    assert len(set(seen.tolist())) == 4 * 5
    assert np.all((support.reshape(4, 2) // 7).T == (query.reshape(4, 3)[:, :2] // 7).T)
    learned, unseen = episodes.split_classes(images, 2, episodes.Shape(2, 1, 1), 0)
    assert len(learned) == 4 and not set(learned.ravel()) & set(unseen.ravel())


@pytest.mark.slow
def test_the_head_and_its_hypergradient():
    """The inner solution solves the normal equations of each lane; the slope is that of differences."""
    task = meta_omniglot(**SMALL, precision="float64")
    hparams = task.init_hparams(jax.random.key(0))
    support, drawn = task.batches(jax.random.key(1), 0)
    engine = bl.ClosedForm()
    at = lambda h: bl.hypergradient(task, h, engine, batch=(support, drawn))
    _, grad, report = at(hparams)
    assert report.status.name == "converged"
    moved = lambda size: {**hparams, "log_penalty": hparams["log_penalty"] + size}
    assert_allclose(grad["log_penalty"], (at(moved(1e-5))[0] - at(moved(-1e-5))[0]) / 2e-5, rtol=1e-5)
    from bilevel.networks.convolutional import Convolutional

    features = lambda images: jnp.asarray(Convolutional().apply({"params": hparams["network"]}, images))
    one = features(support[0])
    gram = one @ one.T + jnp.exp(hparams["log_penalty"]) * jnp.eye(6)
    answers = jnp.repeat(jnp.eye(3), 2, axis=0) - 1 / 3
    assert_allclose(report.params[0], jnp.linalg.solve(gram, answers), rtol=1e-6, atol=1e-9)
    logits = features(drawn.query[0]) @ one.T @ report.params[0]
    first = episodes.Episode(drawn.support[0], drawn.query[0])
    chosen = guesses(lambda h, images: features(images), episodes.Shape(3, 2, 2), hparams, first)
    assert jnp.all(chosen == jnp.argmax(logits, axis=1))


def test_the_nearest_image_gives_its_class():
    support = jnp.arange(6.0)[:, None, None] * jnp.ones((6, 2, 2))  # two images of each of three classes
    query = jnp.array([0.2, 1.4, 2.6, 3.1, 4.9, 5.3])[:, None, None] * jnp.ones((6, 2, 2))
    found = nearest(episodes.Shape(3, 2, 2), (), episodes.Episode(support, query))
    assert found.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
def test_training_raises_the_accuracy_on_classes_that_it_has_not_seen(drawn):
    task = meta_omniglot(**{**SMALL, "test_episodes": 100, "lanes": 4})
    trainer = bl.Trainer(optimizer=optax.adam(3e-3), engine=bl.ClosedForm(), steps=60)
    result = trainer.fit(task)
    assert result.summary["test_accuracy"] > 0.6 > 0.34
    assert 0 < result.summary["test_accuracy_ci95"] < 0.1 and "last_validation_accuracy" in result.summary
    assert 1 / 3 - 0.1 < result.summary["baseline_untrained"] < result.summary["test_accuracy"]
    assert 1 / 3 < result.summary["baseline_nearest_image"] <= 1
    assert drawn(task, result) == {"nearest"}


@pytest.mark.slow
def test_the_published_runs_are_twenty_episodes_of_twenty_characters(data_root):
    from bilevel.tasks.meta_omniglot import one_shot_runs

    runs = one_shot_runs(str(data_root), 2)
    assert runs.support.shape == runs.query.shape == (20, 20, 14, 14)
    assert not np.allclose(runs.support, runs.query)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"way": 1}, "way=1"),
        ({"way": 5}, "lower way"),
        ({"shots": 500}, "need 502 images of a class"),
        ({"pool": 3}, "task.pool=3"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        meta_omniglot(**{**SMALL, **settings})
