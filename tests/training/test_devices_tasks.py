"""Ready-made tasks, folds, the tasks of a meta batch and lanes on 8 virtual devices: the numbers of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(3600)  # a process compiles 18 programs for 8 devices
HERE = Path(__file__).parent
TASKS = ("hyperclean", "logistic", "distillation", "few_shot_sinusoid", "svm", "cross_validation", "own")


@pytest.fixture(scope="module")
def found():
    """What many_devices_tasks.py found in a process with 8 virtual devices."""
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # nothing but the compilation takes time
    environment = {**os.environ, **quick, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(HERE.parents[1])}
    cache = str(HERE.parents[1] / ".cache" / "jax")
    command = [sys.executable, str(HERE / "many_devices_tasks.py"), cache]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("FOUND") + 5 :])


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_the_hypergradient_of_one_device(found, name):
    one, many = found[name]["1"], found[name]["8"]
    assert (one["devices"], many["devices"]) == (1, 8)
    size = float(np.linalg.norm(one["gradient"]))
    np.testing.assert_allclose(many["value"], one["value"], rtol=1e-10)
    np.testing.assert_allclose(many["gradient"], one["gradient"], rtol=0, atol=1e-10 * size)
    assert many["measured"].keys() == one["measured"].keys()
    for metric, number in one["measured"].items():
        np.testing.assert_allclose(many["measured"][metric], number, rtol=1e-9, atol=1e-12, err_msg=metric)
    # The estimate of a task that is solved tightly is the norm of rounding errors; "own" is solved loosely.
    np.testing.assert_allclose(many["estimate"], one["estimate"], rtol=1e-3, atol=1e-12 * size)
    if name == "own":
        assert one["estimate"] > 1e-7 * size
        np.testing.assert_allclose(many["estimate"], one["estimate"], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hyperclean", "logistic", "own"])
def test_no_device_gathers_the_design(found, name):
    many = found[f"{name} in products"]["8"]
    assert many["gathered"] * 4 < many["data"]
    np.testing.assert_allclose(many["gradient"], found[name]["1"]["gradient"], rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_the_tasks_of_a_meta_batch_lie_on_all_devices(found):
    assert found["few_shot_sinusoid"]["8"]["spread"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "shared"])
def test_lanes_of_a_queue_on_each_device_exchange_nothing(found, name):
    lanes = found["lanes"][name]
    assert lanes["params"] < 1e-12 and lanes["slope"] < 1e-10
    assert lanes["steps"][0] == lanes["steps"][1] and lanes["codes"][0] == lanes["codes"][1]
    assert lanes["exchanges"] == 0 and lanes["places"] == 8
