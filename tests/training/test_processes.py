"""Two processes on one problem: the numbers of one, one record, a checkpoint of both, and data that is read in part."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bilevel.training.checkpoint import Checkpoints
from bilevel.training.continuation import fingerprint
from bilevel.training.processes import anywhere, is_loss, leads, several, stops_heard, summed, whole

pytestmark = pytest.mark.timeout(1800)  # two processes compile at once: minutes on a machine that is shared
HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def started(processes: int, devices: int, folder: Path, part: str = "own") -> list[dict]:
    """What two_processes.py found in each of so many processes with so many virtual devices each."""
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # nothing but the compilation takes time
    environment = {**os.environ, **quick, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(HERE.parents[1])}
    command, cache = [sys.executable, str(HERE / "two_processes.py")], str(HERE.parents[1] / ".cache" / "jax")
    port = str(free_port())
    running = [
        subprocess.Popen(
            [*command, str(process), str(processes), port, cache, str(folder), part],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(processes)
    ]
    try:
        with ThreadPoolExecutor(processes) as readers:  # a process whose pipe is full would keep the others waiting
            ends = list(readers.map(lambda one: one.communicate(timeout=1500), running))
    finally:
        for one in running:
            one.kill()
    assert [one.returncode for one in running] == [0] * processes, ends
    return [json.loads(out[out.index("FOUND") + 5 :]) for out, _ in ends]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The processes' folder, what each of the two found, and what one process finds."""
    folder = tmp_path_factory.mktemp("runs")
    return folder / "two", started(2, 2, folder / "two"), started(1, 1, folder / "one")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["even", "uneven", "drawn", "calls"])
def test_two_processes_find_what_one_finds(found, name):
    _, processes, one = found
    for process in processes:
        for part in ("hparams", "params", "losses", "errors"):
            np.testing.assert_allclose(process[name][part], one[name][part], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_each_process_reads_its_rows_only(found):
    _, processes, _ = found
    assert [process["read"] for process in processes] == [[80, 160], [80, 160]]


@pytest.mark.slow
def test_of_a_shipped_task_each_process_reads_its_rows_only(tmp_path):
    processes, (one,) = started(2, 1, tmp_path / "two", "shipped"), started(1, 1, tmp_path / "one", "shipped")
    sizes = {"hyperclean": (400, 100), "logistic": (301, 99)}
    evaluated_on = {"hyperclean": (97, 1200), "logistic": (97, 1300)}
    assert set(one) == set(sizes)
    for name, whole_run in one.items():
        assert whole_run["read"] == {}
        read = [process[name]["read"] for process in processes]
        for size in sizes[name]:  # once for the device, and once for the checkpoint, which knows the data by its sums
            assert sum(rows[str(size)] for rows in read) == 2 * size
            assert abs(read[0][str(size)] - read[1][str(size)]) <= 4
        for size in evaluated_on[name]:
            assert sum(rows[str(size)] for rows in read) == size
            assert abs(read[0][str(size)] - read[1][str(size)]) <= 2
        for process in processes:
            for kind in ("hparams", "params", "losses", "tested"):
                np.testing.assert_allclose(process[name][kind], whole_run[kind], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_the_first_process_alone_writes_the_record_and_both_a_checkpoint(found):
    folder, _, one = found
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(4))
    with np.load(folder / "result.npz") as arrays:
        np.testing.assert_allclose(arrays["hparams"], one["even"]["hparams"], rtol=1e-10, atol=1e-12)
    written = sorted(path.name for path in (folder / "checkpoints" / "4" / "state").glob("ocdbt.process_*"))
    assert written == ["ocdbt.process_0", "ocdbt.process_1"]


@pytest.mark.slow
def test_what_one_process_decides_all_follow(found):
    _, processes, _ = found
    for number, process in enumerate(processes):
        assert process["stopped"]["status"] == "stopped_by_callback" and len(process["stopped"]["losses"]) == 2
        assert process["agreed"] == [True, True, False, "first", [1.0, 0.2]], number
        assert process["refused"].startswith("mesh.data x mesh.params is 1, and 2 processes with 4 devices")


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one_on_another_number_of_devices(found, tmp_path):
    sys.path.insert(0, str(HERE))
    from many_devices import cleaning
    from two_processes import trainer

    folder, _, _ = found
    again = trainer(steps=6, mesh=None).fit(cleaning(160), directory=folder, resume=True)
    whole_run = trainer(steps=6, mesh=None).fit(cleaning(160))
    np.testing.assert_allclose(again.hparams, whole_run.hparams, rtol=1e-10, atol=1e-12)
    assert [line["step"] for line in again.metrics] == list(range(6))


def test_one_process_is_left_as_it_is():
    tree = {"a": np.ones(2)}
    assert leads() and not several() and whole(tree) is tree
    assert anywhere(True) and not anywhere(False) and summed(np.ones(2)).tolist() == [1.0, 1.0]
    with stops_heard() as asked:
        assert not asked()


def test_an_error_of_one_process_is_no_loss_of_another():
    assert not is_loss(ValueError("Gloo all-reduce failed: Connection closed by peer"))


def test_the_fingerprint_is_of_numbers_alone():
    assert fingerprint((np.array([[3.0], [4.0]]), np.float64(2.0), np.zeros((0, 3)))) == [
        [2.0, 3.5, 5.0],
        [1.0, 2.0, 2.0],
        [0.0, 0.0, 0.0],
    ]


def test_a_leaf_without_checksum_is_no_damage(tmp_path):
    """A leaf that is spread over processes has none, and another number of processes may read it."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": np.ones(3), "b": np.zeros(2)})
        checkpoints.wait()
        kept = next((tmp_path / "1" / "meta").glob("metadata"))
        text = json.loads(kept.read_text())
        del text["checksums"]["1"]
        kept.write_text(json.dumps(text))
        state, _ = checkpoints.restore({"a": np.zeros(3), "b": np.ones(2)})
    np.testing.assert_array_equal(state["a"], np.ones(3))
