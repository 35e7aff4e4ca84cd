"""What comes back from a checkpoint is what went in, bit for bit, also when the process is killed while it saves."""

import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel.foundation.status import Code, Status
from bilevel.training.checkpoint import Checkpoints, Pace


class Carry(NamedTuple):
    params: dict
    adjoint: jax.Array | None
    status: Status


def state_of(seed):
    hparams = {"weights": jax.random.normal(jax.random.key(seed), (5, 3)), "scale": jnp.asarray(1 / 3)}
    return {
        "hparams": hparams,
        "optimizer": optax.adam(0.1).init(hparams),
        "carry": Carry({"w": jnp.full(4, 1e-300), "empty": jnp.zeros((0, 2))}, None, Status.of(Code.stalled)),
        "key": jax.random.fold_in(jax.random.key(7), seed),
        "single": jnp.float32(0.1),
        "step": jnp.asarray(seed),
    }


def bits(state):
    leaves, structure = jax.tree.flatten(state)
    return structure, [
        (leaf.dtype, np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf))
        for leaf in leaves
    ]


def assert_same(got, want):
    (got_structure, got_leaves), (want_structure, want_leaves) = bits(got), bits(want)
    assert got_structure == want_structure
    for (got_dtype, got_leaf), (want_dtype, want_leaf) in zip(got_leaves, want_leaves, strict=True):
        assert got_dtype == want_dtype
        np.testing.assert_array_equal(got_leaf, want_leaf)


def test_state_and_meta_come_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state_of(3), {"loggers": [{"id": "abc"}], "best": 0.1})
    with Checkpoints(tmp_path) as checkpoints:
        state, meta = checkpoints.restore(state_of(0))
    assert_same(state, state_of(3))
    assert meta == {"loggers": [{"id": "abc"}], "best": 0.1}


def test_float32_states_come_back(tmp_path):
    with jax.enable_x64(False), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
        assert_same(checkpoints.restore(state_of(0))[0], state_of(1))


def test_only_the_latest_are_kept_and_any_of_them_can_be_had(tmp_path):
    with Checkpoints(tmp_path, max_to_keep=2) as checkpoints:
        for step in (1, 2, 5, 9):
            checkpoints.save(step, state_of(step))
        checkpoints.wait()
        assert checkpoints.steps() == [5, 9]
        assert checkpoints.latest() == 9
        assert_same(checkpoints.restore(state_of(0), step=5)[0], state_of(5))


def test_none_is_named(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            checkpoints.restore(state_of(0))
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
        with pytest.raises(FileNotFoundError, match="no checkpoint of step 2"):
            checkpoints.restore(state_of(0), step=2)


@pytest.mark.parametrize(
    "template",
    [jnp.zeros(4), jnp.zeros(3, jnp.float32), {"a": jnp.zeros(3), "b": jnp.zeros(3)}],
    ids=["shape", "dtype", "number"],
)
def test_another_state_is_refused(tmp_path, template):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.ones(3))
        checkpoints.wait()
        with pytest.raises(ValueError, match=r"holds 1 arrays \(float64\(3\)\).*Resume with the settings"):
            checkpoints.restore(template)


KILLED = """
import sys, jax, jax.numpy as jnp
from bilevel.training.checkpoint import Checkpoints, Pace
checkpoints = Checkpoints(sys.argv[1])
step = 0
while True:
    step += 1
    checkpoints.save(step, {"a": jnp.full((200, 200), float(step)), "b": jnp.asarray(step)}, {"step": step})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(6):
        process.stdout.readline()
    time.sleep(0.013)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with jax.enable_x64(False), Checkpoints(tmp_path) as checkpoints:
        state, meta = checkpoints.restore({"a": jnp.zeros((200, 200)), "b": jnp.asarray(0)})
        assert checkpoints.latest() == meta["step"] == int(state["b"])
        np.testing.assert_array_equal(state["a"], np.full((200, 200), meta["step"]))
        checkpoints.save(meta["step"] + 1, state, meta)  # and saving goes on
        checkpoints.wait()
        assert checkpoints.latest() == meta["step"] + 1


def test_saves_keep_to_their_share_of_the_time(monkeypatch):
    clock = iter([5.0, 10.0, 12.0, 49.9, 50.0])  # asked; a save of 2 s; asked 37.9 s and 38 s after it
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    pace = Pace()
    assert pace.due()
    with pace:
        pass
    assert not pace.due() and pace.due()
