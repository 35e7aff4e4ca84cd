"""Several processes from the command line: refusals, a process that dies, a stop, and going on in one process."""

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from omegaconf import OmegaConf

from bilevel.cli.arguments import translate
from bilevel.cli.distributed import check_distributed, refuse_taken, scheduled
from bilevel.cli.record import continued
from bilevel.cli.sentences import SettingsError

HANGS = 800  # seconds after which a process has no hope of an end: its start takes minutes on a shared machine
TASK = ("task=ridge", "engine=implicit_cg", "solver=lbfgs", "report=false", "hydra.run.dir=run")


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


@pytest.fixture
def start(folder, environment):
    """Starts ``bilevel`` with some arguments and variables in the user's folder."""
    running = []

    def run(*arguments, **variables):
        process = subprocess.Popen(
            [sys.executable, "-m", "bilevel", *arguments],
            cwd=folder,
            env={**environment, "JAX_NUM_CPU_DEVICES": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


def pair(start, *arguments):
    """Two processes of one run, and where they meet."""
    together = ("mesh.data=2", f"distributed.coordinator=127.0.0.1:{free_port()}", "distributed.processes=2")
    return [start(*TASK, *together, f"distributed.id={number}", *arguments) for number in range(2)]


def until_line(folder, line):
    record, end = folder / "run" / "metrics.jsonl", time.monotonic() + HANGS
    while not record.is_file() or len(record.read_text().splitlines()) < line:
        assert time.monotonic() < end, "the run takes no steps"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"coordinator": "a:1"}, "distributed.processes=VALUE is needed beside distributed.coordinator"),
        ({"coordinator": "a:1", "processes": 2, "id": 2}, "2 processes have the numbers from 0 to 1"),
        ({"coordinator": "a:1", "processes": 2, "id": -1}, "distributed.id=-1: a whole number"),
        ({"coordinator": "a:1", "processes": "x", "id": 0}, "distributed.processes=x: a whole number"),
        ({"coordinator": "a", "processes": 2, "id": 0}, "HOST:PORT of the first process is needed"),
        ({"coordinator": "a:1", "processes": 2, "id": 0}, "without a mesh each process would solve the whole"),
    ],
)
def test_processes_that_cannot_work_together_are_refused(settings, words):
    config = OmegaConf.create({"command": "train", "mesh": {"data": 1, "params": 1}, "distributed": settings})
    with pytest.raises(SettingsError, match=words):
        check_distributed(config)


def test_only_a_run_is_distributed():
    whole = {"coordinator": "a:1", "processes": 2, "id": 0}
    with pytest.raises(SettingsError, match="command=check runs in one process"):
        check_distributed(OmegaConf.create({"command": "check", "mesh": {"data": 2}, "distributed": whole}))
    check_distributed(OmegaConf.create({"command": "train", "mesh": {"data": 2}, "distributed": whole}))
    check_distributed(OmegaConf.create({"command": "train"}))  # the record of an earlier version
    with pytest.raises(SettingsError, match="leave out --multirun"):
        translate(["-m", "task=ridge,lasso", "distributed.coordinator=a:1"])


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        with pytest.raises(ConnectionError, match="choose another port"):
            refuse_taken(f"127.0.0.1:{other.getsockname()[1]}")


def test_a_scheduler_is_seen_where_it_started_several_processes():
    slurm = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}
    assert scheduled(slurm) and not scheduled({**slurm, "SLURM_NTASKS": "1"}) and not scheduled({})
    assert scheduled({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "4"})


def test_the_record_names_no_processes():
    assert continued(["task=ridge"], ["++distributed.id=1", "mesh.data=1"]) == ["task=ridge", "mesh.data=1"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_other_and_the_run_goes_on_in_one(start, folder, victim):
    processes = pair(start, "trainer.steps=100000", "trainer.checkpoint_every=3")
    until_line(folder, 8)
    processes[victim].send_signal(signal.SIGKILL)
    out, told = processes[1 - victim].communicate(timeout=60)  # below distributed.heartbeat: the connection tells it
    assert processes[1 - victim].returncode == 1
    assert out == "" and told.count("\n") == 1
    assert told.startswith(
        f"bilevel [process {1 - victim}]: another process of the run has ended or cannot be reached;"
    )
    # One process with two devices goes on, then one with one.
    lines = len((folder / "run" / "metrics.jsonl").read_text().splitlines())
    for devices, steps in ((2, lines + 2), (1, lines + 4)):
        ended = start("resume=run", f"trainer.steps={steps}", f"mesh.data={devices}", JAX_NUM_CPU_DEVICES=str(devices))
        _, told = ended.communicate(timeout=HANGS)
        assert ended.returncode == 0, told
    steps = [json.loads(line)["step"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(lines + 4))
    assert json.loads((folder / "run" / "summary.json").read_text())["status"] == "completed"


@pytest.mark.slow
def test_a_stop_is_heeded_by_all_after_the_same_step(start, folder):
    processes = pair(start, "trainer.steps=100000", "trainer.checkpoint_every=1000000")
    until_line(folder, 3)
    processes[1].send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=HANGS)[1] for process in processes]
    steps = len((folder / "run" / "metrics.jsonl").read_text().splitlines())
    for number, words in enumerate(told):
        assert processes[number].returncode == 130
        *achieved, last = words.splitlines()
        assert last.startswith(f"bilevel [process {number}]: interrupted after {steps} outer steps of 100,000; ")
        assert bool(achieved) == (number == 0)  # the one that writes the record tells what it has
    assert (folder / "run" / "checkpoints" / str(steps)).is_dir()


@pytest.mark.slow
def test_what_slurm_sets_starts_the_processes(start, folder):
    port = free_port()
    slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    processes = [
        start(
            *(*TASK, "trainer.steps=2", "mesh.data=2"),
            **{**slurm, "SLURM_PROCID": number, "SLURM_LOCALID": number, "JAX_COORDINATOR_PORT": str(port)},
        )
        for number in ("0", "1")
    ]
    ends = [process.communicate(timeout=HANGS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert ends[0][0] == "run\n" and ends[1] == ("", "")
    one = start(*TASK[:-1], "trainer.steps=2", "hydra.run.dir=one")
    assert one.wait(timeout=HANGS) == 0
    with np.load(folder / "run" / "result.npz") as many, np.load(folder / "one" / "result.npz") as single:
        for name in single.files:
            np.testing.assert_allclose(many[name], single[name], rtol=1e-10, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_does_not_come_is_told_of(start, number):
    alone = start(
        *TASK,
        *("mesh.data=2", f"distributed.coordinator=127.0.0.1:{free_port()}", "distributed.processes=2"),
        *(f"distributed.id={number}", "distributed.timeout=2"),
    )
    out, told = alone.communicate(timeout=HANGS)
    assert alone.returncode == 1 and out == ""
    assert told.endswith("did not answer within distributed.timeout=2 seconds.\n") and told.count("\n") == 1


@pytest.mark.slow
def test_a_mesh_that_leaves_a_device_out_is_refused_in_both(start):
    processes = pair(start, "mesh.data=4")
    for number, process in enumerate(processes):
        _, told = process.communicate(timeout=HANGS)
        assert process.returncode == 2
        assert told.startswith(f"bilevel [process {number}]: mesh.data x mesh.params is 4, and 2 processes with 2 dev")
