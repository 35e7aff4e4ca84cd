"""Batches from the host: the same as those on the device, resumable anywhere, and of data beyond the memory."""

import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_array_equal

import bilevel as bl
from bilevel.host_batches import Ahead

KEY = jax.random.key(3)


def data(samples, kind=np.float64):
    random = np.random.default_rng(samples)
    return {"x": random.normal(size=(samples, 3)).astype(kind), "y": random.integers(0, 5, samples)}


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert left.dtype == right.dtype
        assert_array_equal(left, right)


@pytest.mark.parametrize("kind", [np.float64, pytest.param(np.uint8, marks=pytest.mark.slow)])
def test_they_are_the_minibatches_of_the_device(kind, tmp_path):
    train, validation = data(11, kind), data(7, kind)
    np.save(tmp_path / "x.npy", train["x"])
    mapped = {**train, "x": np.load(tmp_path / "x.npy", mmap_mode="r")}
    device, host = bl.minibatches(train, validation, 4, 3), bl.host_minibatches(mapped, validation, 4, 3)
    compiled = jax.jit(host)
    for step in (0, 1, 2, 3, 9, 2, 2):  # in order, across an epoch, and jumps as after a resume
        equal(compiled(KEY, step), device(KEY, step))
    equal(host(KEY, 5), device(KEY, 5))


@pytest.mark.slow
def test_they_are_the_same_in_lanes_and_loops():
    device, host = bl.minibatches(data(11), data(7), 4, 3), bl.host_minibatches(data(11), data(7), 4, 3)
    lanes = jax.random.split(KEY, 2)
    equal(jax.vmap(host, (0, None))(lanes, 1), jax.vmap(device, (0, None))(lanes, 1))
    within = lambda batches: jax.lax.scan(lambda step, _: (step + 1, batches(KEY, step)), 0, None, 4)[1]
    equal(within(host), within(device))


def task(batches):
    error = lambda w, h, batch: jnp.mean(batch.weight * (batch["x"] @ w - batch["y"]) ** 2)
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + jnp.exp(h) * jnp.sum(w**2), init=lambda key, h: jnp.zeros(3)
        ),
        outer_loss=error,
        init_hparams=lambda key: jnp.zeros(()),
        batches=batches,
    )


def test_a_run_that_goes_on_ends_where_an_uninterrupted_one_on_the_device_ends(tmp_path):
    """Bit for bit: the same samples in the same programs."""

    def fit(make, steps, **told):
        trainer = bl.Trainer(optimizer=optax.adam(0.1), engine=bl.ClosedForm(), steps=steps)
        return trainer.fit(task(make(data(40), data(30), 10)), key=KEY, **told)

    whole = fit(bl.minibatches, 6)
    fit(bl.host_minibatches, 4, directory=tmp_path)
    resumed = fit(bl.host_minibatches, 6, directory=tmp_path, resume=True)
    assert_array_equal(resumed.hparams, whole.hparams)
    assert [line["outer/loss"] for line in resumed.metrics] == [line["outer/loss"] for line in whole.metrics]


def test_the_next_step_is_read_while_this_one_is_computed():
    seen, done = [], threading.Event()

    def read(place):
        seen.append((int(place), threading.current_thread().name))
        if int(place) == 1:
            done.set()
        return place

    ahead = Ahead(read)
    ahead(np.array(0), np.array(1))
    assert done.wait(10)
    ahead(np.array(1), np.array(2))
    assert [place for place, _ in seen][:2] == [0, 1]
    assert seen[1][1].startswith("bilevel-batches")


def test_iterators_are_opened_where_a_run_goes_on():
    opened = []

    def open_at(step):
        opened.append(step)
        while True:
            yield {"x": np.full(2, step, np.float64)}, np.int32(step)
            step += 1

    batches = bl.streamed(open_at)
    compiled = jax.jit(batches)
    for step in (0, 1, 2, 7, 8, 3):
        inner, outer = compiled(KEY, step)
        assert_array_equal(inner["x"], [step, step])
        assert int(outer) == step
    assert len(opened) < 8  # not at every step
    with pytest.raises(ValueError, match="ended before step 0"):
        bl.streamed(lambda step: iter(()))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="takes NumPy arrays, as np.load"):
        bl.host_minibatches(jnp.ones(4), np.ones(4), 2)
    with pytest.raises(ValueError, match="A batch size of 9 is impossible with 4 training samples"):
        bl.host_minibatches(np.ones(4), np.ones(4), 9)


BEYOND = """
    import resource, sys
    import jax, jax.numpy as jnp, numpy as np, optax
    import bilevel as bl

    LIMIT, WIDTH = {limit}, 16384
    samples = 10 * LIMIT // (4 * WIDTH)
    x = np.memmap(sys.argv[1], np.float32, "w+", shape=(samples, WIDTH))  # a file with holes, which takes no disk
    x[::997, 0] = 1.0
    x.flush()
    x = np.memmap(sys.argv[1], np.float32, "r", shape=(samples, WIDTH))
    used = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + LIMIT, used + LIMIT))
    try:
        np.ones((samples, WIDTH), np.float32)
        raise SystemExit("the limit does not hold")
    except MemoryError:
        pass
    batch = 512
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.mean((batch.data[:, :4] @ w - 1) ** 2) + 0.5 * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(4),
        ),
        outer_loss=lambda w, h, batch: jnp.mean(batch.weight * jnp.sum(batch.data, axis=1)) * jnp.exp(h),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.host_minibatches(x, x, batch),
        precision="float32",
    )
    steps = -(-samples // batch)
    result = bl.Trainer(optimizer=optax.sgd(0.0), engine=bl.ClosedForm(), steps=steps).fit(task)
    mean = np.mean([line["outer/loss"] for line in result.metrics])
    assert abs(mean - len(range(0, samples, 997)) / samples) < 1e-6, mean
    print(samples, steps)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is that of Linux")
def test_ten_times_the_memory_limit_streams_through_a_run(tmp_path):
    """An epoch sees every sample: the mean of its losses is the mean over the file."""
    script = textwrap.dedent(BEYOND.format(limit=700 * 2**20))
    command = [sys.executable, "-c", script, str(tmp_path / "x.bin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
