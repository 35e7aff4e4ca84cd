"""Data that stay on the host: the same samples as from memory, read ahead, resumed, and refused in one sentence."""

import dataclasses
import itertools
import subprocess
import sys
import threading
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

import bilevel as bl

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(50, 3)).astype(np.float32), RANDOM.normal(size=50)


@pytest.fixture
def on_disk(tmp_path):
    """The samples in files, mapped into memory."""
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
    return tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))


def same(one, other):
    jax.tree.map(assert_array_equal, one, other)


def ridge(batches):
    error = lambda w, h, batch: jnp.mean(batch.weight * (batch[0] @ w - batch[1]) ** 2)
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: error(w, h, batch) + jnp.exp(h) * jnp.sum(w**2), init=lambda key, h: jnp.zeros(3)
    )
    return bl.Task(inner, error, lambda key: jnp.zeros(()), batches)


@pytest.mark.parametrize("source", ["files", "function"])
def test_the_samples_are_those_that_arrays_give(on_disk, source):
    data = bl.Streamed(on_disk) if source == "files" else bl.Streamed(lambda at: (X[at], Y[at]), samples=50)
    streamed, arrays = bl.minibatches(data, data, 7), bl.minibatches((X, Y), (X, Y), 7)
    keys = jax.random.split(jax.random.key(1), 2)
    for step in (0, 3, 7, 8, 2):  # of two epochs, in any order; the last batch of an epoch is not full
        same(streamed(keys[0], step), arrays(keys[0], step))
    same(jax.jit(streamed)(keys[0], 5), arrays(keys[0], 5))
    same(jax.vmap(streamed, (0, None))(keys, 5), jax.vmap(arrays, (0, None))(keys, 5))
    scanned = lambda batches: jax.lax.scan(lambda _, step: (None, batches(keys[1], step)), None, jnp.arange(10))[1]
    same(jax.jit(lambda: scanned(streamed))(), scanned(arrays))


def test_samples_follow_the_precision():
    wide = bl.minibatches(bl.Streamed(Y), bl.Streamed(Y), 5)
    assert wide(jax.random.key(0), 0)[0].data.dtype == jnp.float64
    with jax.enable_x64(False):
        batch, _ = jax.jit(wide)(jax.random.key(0), 0)
        assert batch.data.dtype == jnp.float32
        assert_array_equal(batch.data, Y[np.asarray(batch.index)].astype(np.float32))


def test_the_next_samples_are_read_while_the_device_works():
    read, main = [], threading.Event()

    def rows(places):
        read.append(places.tolist())
        if len(read) == 3:  # the first two are of the shapes and of step 0
            main.set()
        return X[places]

    train = bl.Streamed(rows, samples=50)
    batches = bl.minibatches(train, Y, 10)
    jax.block_until_ready(batches(jax.random.key(0), 0))
    assert main.wait(10.0), "nothing was read ahead"
    batch, _ = batches(jax.random.key(0), 1)
    assert sorted(np.asarray(batch.index).tolist()) == read[2]


@pytest.mark.slow
def test_a_streamed_run_is_the_run_on_arrays_and_resumes_bit_for_bit(on_disk, tmp_path):
    trainer = bl.Trainer(optimizer=optax.adam(0.1), steps=6, checkpoint_every=2)
    arrays, streamed = (
        ridge(bl.minibatches((X, Y), (X, Y), 16)),
        ridge(bl.minibatches(bl.Streamed(on_disk), bl.Streamed(on_disk), 16)),
    )
    expected = trainer.fit(arrays)
    assert_array_equal(trainer.fit(streamed).last_hparams, expected.last_hparams)
    dataclasses.replace(trainer, steps=4).fit(streamed, directory=tmp_path / "run")
    resumed = trainer.fit(streamed, directory=tmp_path / "run", resume=True)
    assert_array_equal(resumed.last_hparams, expected.last_hparams)
    assert len(resumed.metrics) == 6


def draws(made=None):
    """An iterator factory that remembers the calls in ``made``."""

    def make(seed, start):
        if made is not None:
            made.append(start)
        for step in itertools.count(start):
            index = np.random.default_rng((seed, step)).integers(0, 50, 16)
            batch = X[index], Y[index]
            yield bl.whole_batch(batch), bl.whole_batch(batch)

    return make


def test_an_iterator_goes_on_where_it_can_and_begins_anew_where_it_must():
    made = []
    batches = jax.jit(bl.batches_from(draws(made)))
    key = jax.random.key(3)
    seen = [batches(key, step) for step in range(4)]
    assert made == [0, 0]  # the first for the shapes
    same(batches(key, 3), seen[3])  # taken again
    assert made == [0, 0]
    same(batches(key, 1), seen[1])
    assert made[2] == 1
    other, _ = batches(jax.random.key(4), 1)
    assert not np.array_equal(other.data[0], seen[1][0].data[0])


def test_a_run_on_an_iterator_resumes_bit_for_bit(tmp_path):
    trainer = bl.Trainer(optimizer=optax.adam(0.1), steps=6, checkpoint_every=2)
    expected = trainer.fit(ridge(bl.batches_from(draws())))
    dataclasses.replace(trainer, steps=4).fit(ridge(bl.batches_from(draws())), directory=tmp_path / "run")
    made = []
    task = ridge(bl.batches_from(draws(made)))
    resumed = trainer.fit(task, directory=tmp_path / "run", resume=True)
    assert_array_equal(resumed.last_hparams, expected.last_hparams)
    assert 4 in made  # not from the start


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(ValueError, match="samples=N"):
        bl.Streamed(lambda places: X[places])
    with pytest.raises(ValueError, match=r"\[49, 50\] samples"):
        bl.Streamed((X, Y[:49]))
    with pytest.raises(ValueError, match="bl.minibatches"):
        bl.full_batch(bl.Streamed(X), Y)
    with pytest.raises(ValueError, match="from 1 to 50"):
        bl.minibatches(bl.Streamed(X), Y, 51)
    with pytest.raises(ValueError, match="yields ndarray, and has to yield pairs"):
        bl.batches_from(cast(Any, lambda seed, start: iter([X])))


def test_an_iterator_that_ends_and_a_file_that_cannot_be_read_say_so():
    batches = bl.batches_from(lambda seed, start: iter([(X, Y)] * (2 - start)))
    with pytest.raises(Exception, match="ended before step 2"):
        jax.block_until_ready(batches(jax.random.key(0), 2))

    def torn(places):
        if len(places) > 1:
            raise OSError("x.npy ends at sample 31")
        return X[places]

    with pytest.raises(Exception, match="x.npy ends at sample 31"):
        jax.block_until_ready(bl.minibatches(bl.Streamed(torn, samples=50), X, 5)(jax.random.key(0), 0))


def test_on_several_devices_streams_are_refused():
    task = ridge(bl.minibatches(bl.Streamed((X, Y)), (X, Y), 16))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    with pytest.raises(ValueError, match="read on the host"):
        bl.Trainer(optimizer=optax.adam(0.1), steps=1, mesh=mesh).fit(task)


LIMITED = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np, optax
import bilevel as bl

LIMIT = 128 * 2**20
data = np.load(sys.argv[1], mmap_mode="r")
assert data.nbytes >= 10 * LIMIT

def limit(moment):
    if moment.step == 1:  # what every run needs is there
        used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + LIMIT, used + LIMIT))

# The outer loss of a batch at h = 0 is the mean of its sums, and that of an epoch the mean over the file.
inner = bl.InnerProblem(loss=lambda w, h, batch: 0.5 * jnp.mean((batch.data @ w - 1) ** 2) + 0.5 * jnp.sum(w**2),
                        init=lambda key, h: jnp.zeros(64))
total = lambda w, h, batch: jnp.mean(batch.weight * jnp.sum(batch.data, axis=1)) * jnp.exp(h)
batches = bl.minibatches(bl.Streamed(data), bl.Streamed(data), 20_000)
task = bl.Task(inner, total, lambda key: jnp.zeros(()), batches, precision="float32")
result = bl.Trainer(optimizer=optax.sgd(0.0), engine=bl.ClosedForm(), steps=265, callbacks=[limit]).fit(task)
mean = np.mean([line["outer/loss"] for line in result.metrics])
assert abs(mean - len(range(0, len(data), 997)) / len(data)) < 1e-6, mean
print(result.summary["status"])
try:
    jax.block_until_ready(jnp.asarray(data))
except (MemoryError, jax.errors.JaxRuntimeError):
    print("and the whole does not fit")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits and figures of a process are those of Linux")
def test_ten_times_the_memory_limit_streams_through_a_run(tmp_path):
    """An epoch of 1.36 GB in a process that may take 128 MB more than it had after the first step."""
    path = tmp_path / "data.npy"
    data = np.lib.format.open_memmap(path, "w+", np.float32, (5_300_000, 64))
    data[::997, 0] = 1.0  # a file with holes, which takes little disk
    data.flush()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["completed", "and the whole does not fit"], done.stderr[-2000:]
