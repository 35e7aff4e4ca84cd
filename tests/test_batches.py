"""Batches: a permutation an epoch, averages that are exact, the same for the same key and step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bilevel.batches import Minibatch, full_batch, minibatches, permuted, whole_batch

SIZES = [(1, 1), (5, 1), (6, 2), (7, 3), (8, 8), (50, 7), (64, 64), (101, 100)]


@pytest.mark.sample(6)
@pytest.mark.parametrize("samples", [*range(1, 20), 64, 65, 1000, 1023])
def test_permuted_is_a_permutation(samples):
    places = jnp.arange(samples, dtype=jnp.uint32)
    for seed in range(3):
        assert_array_equal(np.sort(permuted(jax.random.key(seed), places, samples)), np.arange(samples))


def test_permutations_of_four_are_equally_frequent():
    keys = jax.random.split(jax.random.key(3), 24 * 1000)
    permutations = jax.vmap(lambda key: permuted(key, jnp.arange(4, dtype=jnp.uint32), 4))(keys)
    _, counts = np.unique(np.asarray(permutations), axis=0, return_counts=True)
    assert len(counts) == 24
    chi_square = np.sum((counts - 1000.0) ** 2) / 1000.0
    assert chi_square < 49.7  # the 0.999 quantile for 23 degrees of freedom


@pytest.mark.parametrize(("samples", "batch_size"), SIZES)
def test_an_epoch_meets_every_sample_once(samples, batch_size):
    batches = jax.jit(minibatches(np.arange(samples), np.arange(2.0), batch_size=batch_size, validation_batch_size=1))
    blocks = -(-samples // batch_size)
    orders = []
    for epoch in range(3):
        drawn = [batches(jax.random.key(1), epoch * blocks + block)[0] for block in range(blocks)]
        index = np.concatenate([batch.index[np.asarray(batch.weight) > 0] for batch in drawn])
        assert_array_equal(np.sort(index), np.arange(samples))
        for batch in drawn:
            assert_array_equal(batch.data, batch.index)
        orders.append(tuple(index))
    assert samples < 50 or len(set(orders)) == 3


@pytest.mark.parametrize(("samples", "batch_size"), SIZES)
def test_weighted_averages_over_an_epoch_are_exact(samples, batch_size):
    values = np.random.default_rng(0).standard_normal((samples, 2))
    batches = jax.jit(minibatches(values, values, batch_size=batch_size))
    blocks = -(-samples // batch_size)
    for side in (0, 1):
        drawn = [batches(jax.random.key(2), 5 * blocks + block)[side] for block in range(blocks)]
        means = [jnp.mean(batch.weight[:, None] * batch.data, axis=0) for batch in drawn]
        assert_allclose(np.mean(means, axis=0), values.mean(axis=0), rtol=1e-13, atol=1e-15)


@pytest.mark.slow
def test_stochastic_gradients_average_to_the_full_gradient():
    random = np.random.default_rng(1)
    data = (random.standard_normal((23, 3)), random.standard_normal(23))

    def gradient(batch):
        def loss(params):
            x, y = batch
            return 0.5 * jnp.mean(batch.weight * (x @ params - y) ** 2)

        return jax.grad(loss)(jnp.ones(3))

    batches = minibatches(data, data, batch_size=4)
    drawn = [gradient(batches(jax.random.key(0), step)[0]) for step in range(6)]
    assert_allclose(np.mean(drawn, axis=0), gradient(whole_batch(data)), rtol=1e-12)


@pytest.mark.slow
def test_train_and_validation_are_drawn_independently_and_reproducibly():
    samples = np.arange(40)
    batches = minibatches(samples, samples, batch_size=40)
    train, validation = batches(jax.random.key(0), 3)
    assert not np.array_equal(train.index, validation.index)
    again, _ = jax.jit(batches)(jax.random.key(0), jnp.int32(3))
    assert_array_equal(train.index, again.index)
    other, _ = batches(jax.random.key(1), 3)
    assert not np.array_equal(train.index, other.index)


@pytest.mark.slow
def test_batches_inside_a_scan():
    batches = minibatches(np.arange(10), np.arange(10), batch_size=3)
    seen = jax.lax.scan(lambda _, step: (None, batches(jax.random.key(0), step)[0].index), None, jnp.arange(8))[1]
    for step in range(8):
        assert_array_equal(seen[step], batches(jax.random.key(0), step)[0].index)


def test_minibatch_unpacks_like_its_data():
    batch = whole_batch((np.arange(3.0), np.ones(3)))
    x, y = batch
    assert_array_equal(x, batch[0])
    assert_array_equal(y, batch[1])
    assert isinstance(jax.tree.map(jnp.asarray, batch), Minibatch)


def test_full_batch_gives_what_it_was_given():
    train, validation = object(), object()
    assert full_batch(train, validation)(jax.random.key(0), 3) == (train, validation)


@pytest.mark.parametrize("batch_size", [-1, 0, 6])
def test_refuses_impossible_sizes(batch_size):
    with pytest.raises(ValueError, match="choose one from 1 to 5"):
        minibatches(np.arange(5), np.arange(5), batch_size=batch_size)


def test_refuses_leaves_of_unequal_length():
    with pytest.raises(ValueError, match="have one length"):
        minibatches((np.arange(5), np.arange(4)), np.arange(5), batch_size=2)
