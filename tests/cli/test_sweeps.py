"""A sweep has an identity: the same command line completes what an earlier start of it left, and repeats nothing."""

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode

from bilevel.cli.choices import configs
from bilevel.cli.sentences import Told
from bilevel.cli.sweep import conclude, identity, let_jobs_tell
from bilevel.loggers import read_json_lines
from bilevel.training import RunFolder

STEPS = 30
SWEEP = ("task._target_=mine.shrinkage", f"trainer.steps={STEPS}", "trainer.checkpoint_every=1", "logger=none")
FEATURES = (4, 3, 2)


def test_a_job_that_failed_tells_it_alone(capsys, monkeypatch):
    monkeypatch.setattr(JobReturn, "return_value", JobReturn.return_value)  # as it was, after this test
    let_jobs_tell()
    failed, done = JobReturn(status=JobStatus.FAILED), JobReturn(status=JobStatus.COMPLETED)
    failed.return_value, done.return_value = Told("because"), 0.5
    with pytest.raises(Told, match="because"):
        _ = failed.return_value
    assert done.return_value == 0.5
    assert capsys.readouterr() == ("", "")


def test_a_sweep_without_a_run_has_no_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("bilevel.cli.sweep._folders", [tmp_path])
    (tmp_path / "multirun.yaml").write_text("")
    conclude()
    assert capsys.readouterr() == ("", "") and not (tmp_path / "sweep.csv").exists()


def named(*overrides):
    with initialize_config_dir(str(configs()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return identity(hydra.compose_config("config", list(overrides), RunMode.MULTIRUN))


def test_the_name_of_a_sweep_says_its_settings_and_nothing_else():
    one = named("task=ridge,lasso", "seed=1,2")
    assert one.startswith("ridge-lasso-")
    assert one == named(
        "task=ridge,lasso", "seed=1,2", "progress=false", "hydra/launcher=local", "data.root=/elsewhere"
    )
    assert one != named("seed=1,2", "task=ridge,lasso")  # which numbers its jobs in another order
    others = (
        ("task=ridge,lasso", "seed=1,3"),
        ("task=ridge,lasso", "seed=1,2", "trainer.steps=7"),
        ("task=ridge,svm",),
    )
    assert len({one, *(named(*other) for other in others)}) == 1 + len(others)


def check_whole(folder):
    """Checks that every run of the sweep is complete, with every step once."""
    (place,) = (folder / "multirun").iterdir()
    for run in (place / str(number) for number in range(len(FEATURES))):
        assert [line["step"] for line in read_json_lines(run / "metrics.jsonl")] == list(range(STEPS))
        assert json.loads((run / "summary.json").read_text())["status"] == "completed"
    assert (place / "sweep.csv").is_file()


@pytest.mark.slow
def test_a_sweep_whose_driver_is_killed_is_completed_by_the_same_line(bilevel, folder, environment):
    line = ("-m", *SWEEP, f"task.features={','.join(map(str, FEATURES))}", "report=false")
    command = [sys.executable, "-m", "bilevel", *line]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(folder.glob("multirun/*/1/checkpoints/*")), process)
        process.send_signal(signal.SIGKILL)
    (place,) = (folder / "multirun").iterdir()
    first = (place / "0" / "summary.json").stat().st_mtime_ns
    assert not (place / "1" / "summary.json").exists() and not (place / "2").exists()
    done = bilevel(*line)
    assert done.returncode == 0, done.stderr
    assert (place / "0" / "summary.json").stat().st_mtime_ns == first
    assert "0 is already finished" in done.stderr
    check_whole(folder)
    again = bilevel(*line)
    assert again.returncode == 0 and again.stderr.count("is already finished") == len(FEATURES)


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_says_how_it_goes_on(bilevel, folder, environment):
    line = ("-m", *SWEEP, f"task.features={','.join(map(str, FEATURES))}", "report=false")
    command = [sys.executable, "-m", "bilevel", *line]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(folder.glob("multirun/*/1/checkpoints/*")), process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=800)
    assert process.returncode == 130 and "Traceback" not in told, told
    last = told.splitlines()[-1]
    assert re.search(
        r"\]: interrupted( after \d+ outer steps? of 30)?.*; the same command line goes on with the sweep\.$", last
    )
    assert bilevel(*line).returncode == 0
    check_whole(folder)


@pytest.mark.slow
def test_other_settings_in_the_folder_of_a_sweep_are_refused(bilevel, folder):
    assert bilevel("-m", *SWEEP, "task.features=4", "output=sweep").returncode == 0
    done = bilevel("-m", *SWEEP, "task.features=2", "output=sweep")
    assert done.returncode == 1 and "holds a run already" in done.stderr


@pytest.mark.slow
def test_a_killed_worker_of_a_ray_cluster_of_two_nodes_repeats_nothing(bilevel, folder, tmp_path):
    pytest.importorskip("ray", reason="ray is an extra")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the launcher of ray is an extra")
    variables = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(tmp_path)}
    ray = lambda *words: subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *words], env={**os.environ, **variables}, check=True, timeout=120
    )
    ray("start", "--head", "--node-ip-address=127.0.0.1", "--port=6399", "--num-cpus=1", "--include-dashboard=false")
    try:
        ray("start", "--address=127.0.0.1:6399", "--num-cpus=1")
        line = ("-m", "hydra/launcher=ray_cluster", "hydra.launcher.ray.init.address=127.0.0.1:6399", *SWEEP)
        environment = {
            **os.environ,
            **variables,
            "PYTHONPATH": os.pathsep.join((os.environ.get("PYTHONPATH", ""), str(folder))),
        }
        command = [sys.executable, "-m", "bilevel", *line, f"task.features={','.join(map(str, FEATURES))}"]
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: list(folder.glob("multirun/*/1/checkpoints/*")), process)
            (place,) = (folder / "multirun").iterdir()
            worker = int((place / "1" / "run.lock").read_text().split()[1])
            os.kill(worker, signal.SIGKILL)
            _, told = process.communicate(timeout=800)
        assert process.returncode == 0, told
        check_whole(folder)
    finally:
        ray("stop", "--force")


@pytest.mark.slow
def test_a_killed_worker_of_submitit_is_made_up_for_by_the_same_line(bilevel, folder, environment):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the launcher of submitit is an extra")
    line = ("-m", "hydra/launcher=submitit", *SWEEP, f"task.features={','.join(map(str, FEATURES))}", "report=false")
    command = [sys.executable, "-m", "bilevel", *line]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(folder.glob("multirun/*/1/checkpoints/*")), process)
        (place,) = (folder / "multirun").iterdir()
        os.kill(int((place / "1" / "run.lock").read_text().split()[1]), signal.SIGKILL)
        _, told = process.communicate(timeout=800)
    assert process.returncode == 1 and "the same command line completes the sweep" in told, told
    assert "Traceback" not in told and "UncompletedJobError" not in told
    others = [place / number / "summary.json" for number in ("0", "2")]
    wait_until(lambda: all(summary.exists() for summary in others))
    ends = [summary.stat().st_mtime_ns for summary in others]
    assert not (place / "1" / "summary.json").exists()
    done = bilevel(*line)
    assert done.returncode == 0, done.stderr
    assert [summary.stat().st_mtime_ns for summary in others] == ends
    check_whole(folder)


@pytest.mark.slow
def test_the_runs_of_submitit_that_outlive_their_driver_are_waited_for(folder, environment):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the launcher of submitit is an extra")
    line = ("-m", "hydra/launcher=submitit", *SWEEP, f"task.features={','.join(map(str, FEATURES))}", "report=false")
    start = functools.partial(
        subprocess.Popen, [sys.executable, "-m", "bilevel", *line], cwd=folder, env=environment, text=True
    )
    with start(stderr=subprocess.PIPE) as process:
        wait_for(lambda: list(folder.glob("multirun/*/1/checkpoints/*")), process)
        (place,) = (folder / "multirun").iterdir()
        orphan = int((place / "1" / "run.lock").read_text().split()[1])
        os.kill(orphan, signal.SIGSTOP)  # so that the second start meets it
        process.kill()
    try:
        assert not (place / "1" / "summary.json").exists()
        with start(stderr=subprocess.PIPE) as process:
            logs = lambda: "".join(log.read_text() for log in place.glob(".submitit/*/*.err"))
            wait_for(lambda: f"process {orphan} on" in logs(), process)
            assert "is writing a run there; waiting for its end." in logs()
            os.kill(orphan, signal.SIGCONT)
            _, told = process.communicate(timeout=800)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGCONT)
    assert process.returncode == 0, told
    check_whole(folder)


@pytest.mark.slow
def test_a_job_waits_for_the_process_that_writes_its_run(folder, environment):
    command = [sys.executable, "-m", "bilevel", "-m", *SWEEP, "task.features=4", "output=sweep", "report=false"]
    with RunFolder(folder / "sweep" / "0") as held:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        told = next(line for line in process.stderr if "is writing a run there" in line)
        assert told.endswith(
            f"process {os.getpid()} on {socket.gethostname()} is writing a run there; waiting for its end.\n"
        )
        assert sorted(path.name for path in held.path.iterdir()) == ["run.lock"]
    _, told = process.communicate(timeout=800)
    assert process.returncode == 0, told
    assert json.loads((folder / "sweep" / "0" / "summary.json").read_text())["status"] == "completed"


def wait_for(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)


def wait_until(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.1)
