"""One inner problem over many devices: the numbers of one device, compiled once, and no gather of the data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from jax.sharding import Mesh

import bilevel as bl
from bilevel.training.devices import Leaves, Spread, mesh_of, on_mesh, samples_of

pytestmark = pytest.mark.timeout(1800)  # a process compiles for 8 devices: minutes on a machine that is shared
HERE = Path(__file__).parent
SAMPLES, FEATURES = 160, 12


@pytest.fixture(scope="module")
def run():
    """What many_devices.py found in a process with 8 virtual devices."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(HERE.parents[1])}
    cache = str(HERE.parents[1] / ".cache" / "jax")
    command = [sys.executable, str(HERE / "many_devices.py"), cache]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["even, data", "even, both", "uneven, data", "lasso, data", "lasso, both"])
def test_many_devices_find_what_one_finds(run, name):
    many, one = run["found"][name], run["found"][f"{name.split(',')[0]}, one"]
    assert many["devices"] == 8 and one["devices"] == 1
    for part in ("hparams", "params", "gradients"):
        np.testing.assert_allclose(many[part], one[part], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_the_outer_step_is_compiled_once(run):
    assert [one["compilations"] for one in run["found"].values() if "compilations" in one] == [1] * 8


@pytest.mark.slow
def test_no_device_gathers_the_data_or_its_weights(run):
    gathered = {name: one["gathered"] for name, one in run["found"].items() if "gathered" in one}
    assert gathered["even, data"] < SAMPLES  # neither the design nor one hyperparameter a sample
    assert max(gathered.values()) < SAMPLES * FEATURES


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_devices(run):
    again, whole = run["found"]["even, resumed"], run["found"]["even, one"]
    assert again["devices"] == 2
    np.testing.assert_allclose(again["hparams"], whole["hparams"], rtol=1e-10)


@pytest.mark.slow
def test_what_cannot_be_spread_is_refused_in_a_sentence(run):
    assert "need 9 devices, and JAX has 8" in run["refused"]["too many"]
    assert "mesh.data=0" in run["refused"]["zero"]
    assert run["refused"]["unknown"].startswith("mesh={'rows': 2}")
    assert run["refused"]["host"].startswith("SciPy solves on one device")


def test_one_device_needs_no_mesh():
    assert mesh_of({"data": 1, "params": 1}) is None
    with pytest.raises(ValueError, match="name them 'data' and 'params'"):
        bl.Trainer(mesh=Mesh(np.array(jax.devices()[:1]), ("x",)))


@pytest.mark.slow
def test_a_mesh_of_one_device_changes_nothing():
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: jnp.mean((batch - w) ** 2) + jnp.exp(h) * w**2, init=lambda key, h: jnp.zeros(())
        ),
        outer_loss=lambda w, h, batch: jnp.mean((batch - w) ** 2),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(np.arange(5.0), np.arange(4.0)),
    )
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "params"))
    found = [bl.Trainer(optimizer=optax.adam(0.1), steps=2, mesh=one).fit(task) for one in (None, mesh)]
    assert found[0].hparams == found[1].hparams


def test_the_samples_are_those_of_the_training_data():
    both = bl.minibatches((np.ones((6, 2)), np.ones(6)), np.ones(9), batch_size=4)(jax.random.key(0), 0)
    assert samples_of(both) == 4


def test_a_matrix_on_the_host_is_refused():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "params"))
    matrix = bl.HostMatrix(scipy.sparse.eye_array(3, format="csr"))
    spread = Spread(bl.full_batch((matrix, np.ones(3)), (matrix, np.ones(3))), Leaves(mesh))
    with pytest.raises(ValueError, match=r"bl\.HostMatrix lies in the memory of one host"):
        jax.eval_shape(lambda step: spread(jax.random.key(0), step)[0][1], jnp.int32(0))


def test_held_out_samples_are_cut_once_and_whole_outside_of_a_program():
    x = np.arange(6.0).reshape(3, 2)
    measure = lambda params, hparams, samples: {"mean": jnp.mean(samples[0] @ params), "none": len(samples[1])}
    task = bl.Task(
        inner=bl.InnerProblem(loss=lambda w, h, batch: h * w @ w, init=lambda key, h: jnp.zeros(2)),
        outer_loss=lambda w, h, batch: w @ w,
        init_hparams=lambda key: jnp.ones(()),
        batches=bl.full_batch(x, x),
        evaluate=bl.HeldOut(measure, (x, np.zeros((0, 2)))),
    )
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "params"))
    spread, params = on_mesh(task, mesh).evaluate, jnp.ones(2)
    assert float(spread(params, None)["mean"]) == 5.0 == float(task.evaluate(params, None)["mean"])
    for _ in range(2):
        assert float(jax.jit(lambda params: spread(params, None)["mean"])(params)) == 5.0
    assert len(spread.leaves._cut) == 1
