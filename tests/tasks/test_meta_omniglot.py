"""Few-shot characters: episodes, the ridge head against its normal equations, the hypergradient, what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.tasks import episodes, few_shot_tests, heads, meta_omniglot
from bilevel.tasks.meta_omniglot import NETWORKS, guesses, nearest

SMALL: dict[str, Any] = {
    "data": "digits", "way": 3, "shots": 2, "queries": 2, "lanes": 2, "held_out": 4, "rotations": False, "pool": 1,
    "test_episodes": 20,
}  # fmt: skip


def test_an_episode_has_each_image_once_and_classes_apart():
    images = np.arange(6 * 7, dtype=np.float32).reshape(6, 7, 1, 1)
    shape = episodes.Shape(way=4, shots=2, queries=3)
    found = episodes.Classes(images, np.zeros(6, int))
    support, query = episodes.drawn_episode(jax.random.key(0), found, shape)
    seen = np.concatenate([support.ravel(), query.ravel()])
    assert len(set(seen.tolist())) == 4 * 5
    assert np.all((support.reshape(4, 2) // 7).T == (query.reshape(4, 3)[:, :2] // 7).T)
    learned, unseen = episodes.split_classes(found, 2, episodes.Shape(2, 1, 1), 0)
    assert len(learned.images) == 4 and not set(learned.images.ravel()) & set(unseen.images.ravel())


def test_an_episode_of_the_runs_has_one_alphabet_and_one_hand_for_each_drawing():
    alphabets = np.repeat(np.arange(3), [4, 5, 2])
    images = (100.0 * np.arange(11)[:, None] + np.arange(7))[:, :, None, None]  # 100 class + hand
    found = episodes.Classes(images, alphabets)
    shape = episodes.Shape(way=4, shots=2, queries=3)
    chosen = set()
    for seed in range(20):
        support, query = episodes.drawn_run(jax.random.key(seed), found, shape)
        drawn = np.concatenate([support.reshape(4, 2), query.reshape(4, 3)], axis=1)
        classes, hands = drawn // 100, drawn % 100
        assert len(set(classes[:, 0])) == 4 and np.all(classes == classes[:, :1])
        assert len(set(hands[0])) == 5 and np.all(hands == hands[:1])
        of = alphabets[classes[:, 0].astype(int)]
        assert len(set(of)) == 1 or {2} < set(of)  # the alphabet of two characters is filled up
        chosen |= set(of)
    assert chosen == {0, 1, 2}


def test_whole_alphabets_are_held_out_and_rotations_are_alphabets_of_their_own():
    images = np.arange(11 * 3 * 4.0).reshape(11, 3, 2, 2)
    found = episodes.Classes(images, np.repeat(np.arange(3), [4, 5, 2]))
    shape = episodes.Shape(way=4, shots=1, queries=1)
    learned, unseen = episodes.split_alphabets(found, 4, shape, 0)
    assert len(learned.images) + len(unseen.images) == 11 and 4 <= len(unseen.images) <= 5
    assert not set(learned.groups) & set(unseen.groups)
    assert len(episodes.split_alphabets(found, 0, shape, 0)[1].images) == 0
    turned = episodes.with_rotations(learned)
    assert len(turned.images) == 4 * len(learned.images)
    assert len(set(turned.groups)) == 4 * len(set(learned.groups))
    with pytest.raises(ValueError, match="the largest has 5"):
        episodes.split_alphabets(found, 4, shape._replace(way=6), 0)


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
        ({"held_out": 0}, "leaves no class to test on"),
        ({"protocol": "runs"}, "holds out whole alphabets, which leaves 0 classes"),
        ({"protocol": "alphabets"}, "task.protocol=alphabets: choose one of mixed, runs"),
        ({"head": "tree"}, "task.head=tree: choose one of ridge, svm"),
        ({"network": "deep"}, "task.network=deep: choose one of small, wide"),
        ({"warp": -1.0}, "warp=-1.0 not negative"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        meta_omniglot(**{**SMALL, **settings})


@pytest.mark.slow
def test_the_dual_of_the_svm_and_its_hypergradient():
    """The weights of each lane are those of a quadratic program; the slope is that of differences."""
    task = meta_omniglot(**SMALL, head="svm", precision="float64")
    task = task.with_solver(bl.ProximalGradient(max_steps=50_000, tol=1e-11))
    hparams = {**task.init_hparams(jax.random.key(0)), "log_penalty": jnp.array(-1.0)}
    support, drawn = task.batches(jax.random.key(1), 0)
    at = lambda h: bl.hypergradient(task, h, bl.Implicit(), batch=(support, drawn))
    _, grad, report = at(hparams)
    from bilevel.networks.convolutional import Convolutional

    features = lambda h, images: jnp.asarray(Convolutional().apply({"params": h["network"]}, images))
    gram = heads.grams(features, hparams, support)
    shape = episodes.Shape(3, 2, 2)
    one_hot = heads.answers("svm", shape)
    for lane in range(2):
        direct = heads.svm_solved(gram[lane], jnp.exp(hparams["log_penalty"]), one_hot)
        own = heads.svm_weights(report.params[lane], jnp.exp(hparams["log_penalty"]), one_hot)
        assert_allclose(own, direct, atol=1e-7)
        assert jnp.sum(jnp.abs(own) > 1e-6) > 6  # of 18: some rows hold more than their own class
    moved = lambda size: {**hparams, "log_penalty": hparams["log_penalty"] + size}
    assert_allclose(grad["log_penalty"], (at(moved(1e-5))[0] - at(moved(-1e-5))[0]) / 2e-5, rtol=1e-4)
    along = lambda size: jax.tree.map(lambda leaf, slope: leaf + size * slope, hparams, grad)
    steepest = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad))
    assert_allclose(steepest, (at(along(1e-6))[0] - at(along(-1e-6))[0]) / 2e-6, rtol=1e-4)


def test_averaged_features_are_as_long_as_those_of_the_image():
    images = jax.random.uniform(jax.random.key(0), (4, 6, 6))
    plain = lambda hparams, images: images.reshape(len(images), -1)
    assert few_shot_tests.averaged(plain, 0, 1.0) is plain
    several = few_shot_tests.averaged(plain, 3, 1.0)((), images)
    assert_allclose(jnp.sum(several**2, axis=1), jnp.sum(images**2, axis=(1, 2)), rtol=1e-5)
    assert_allclose(few_shot_tests.averaged(plain, 2, 0.0)((), images), plain((), images), rtol=1e-5)
    assert not np.allclose(several, plain((), images), atol=1e-2)


@pytest.mark.slow
def test_the_episodes_of_a_step_are_a_function_of_the_key_and_the_step(data_root):
    """With warps too, which are drawn anew for each image."""
    settings: dict[str, Any] = {"protocol": "runs", "network": "wide", "warp": 1.0, "way": 3, "lanes": 2}
    task = meta_omniglot(root=str(data_root), **settings)
    draw = lambda key, step: task.batches(jax.random.key(key), step)[1]
    one, same = draw(0, 5), jax.jit(draw)(0, 5)
    jax.tree.map(lambda left, right: assert_allclose(left, right, atol=1e-5), one, same)
    for other in (draw(0, 6), draw(1, 5)):
        assert not np.allclose(one.support, other.support, atol=1e-2)
    assert not np.allclose(one.support[0, 0], one.query[0, 0], atol=1e-2)
    hparams = task.init_hparams(jax.random.key(0))
    from bilevel.networks.convolutional import Convolutional

    wide = Convolutional(**NETWORKS["wide"])
    features = jnp.asarray(wide.apply({"params": hparams["network"]}, one.support[0]))
    assert_allclose(jnp.linalg.norm(features, axis=1), 1, rtol=1e-5)
