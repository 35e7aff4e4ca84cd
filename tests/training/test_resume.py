"""A run that is killed and goes on gives the record of an uninterrupted one, bit for bit, times excepted."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bilevel.loggers import read_json_lines

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "jax"
TASKS = {
    "ridge": ("task=ridge", "trainer.steps=120"),  # warm start of params and adjoint
    "minibatches": ("task=hyperclean", "task.batch_size=64", "trainer.steps=60"),  # key and position in the data
    "lasso": ("task=lasso", "trainer.steps=60", "trainer.patience=50"),
}


@contextmanager
def interrupts_heeded():
    """A suite that runs in the background would hand its ignored SIGINT down to its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(folder, *arguments):
    command = [sys.executable, "-m", "bilevel", *arguments]
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    environment = {**kept, "BILEVEL_CACHE": str(CACHE)}
    with interrupts_heeded():
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def finished(folder, *arguments):
    process = start(folder, *arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return folder / out.strip()


def wait_for_lines(path, number, process):
    while process.poll() is None and len(read_json_lines(path)) < number:
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed: give it more steps"


def without_times(lines):
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in lines]


def assert_same_run(one, other):
    """Equal records and results; NaN equals NaN, and nothing else is forgiven."""
    texts = [
        [json.dumps(line) for line in without_times(read_json_lines(run / "metrics.jsonl"))] for run in (one, other)
    ]
    assert texts[0] == texts[1]
    arrays = [np.load(run / "result.npz") for run in (one, other)]
    assert sorted(arrays[0]) == sorted(arrays[1])
    for name in arrays[0]:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for name, value in summaries[0].items():
        if not name.startswith("seconds"):
            assert summaries[1][name] == value or value != value, name


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_kill_at_any_moment_then_resume(tmp_path, task):
    whole = finished(tmp_path, *TASKS[task], "hydra.run.dir=whole")
    settings = (*TASKS[task], "hydra.run.dir=broken", "trainer.checkpoint_every=7")
    broken, path = tmp_path / "broken", tmp_path / "broken" / "metrics.jsonl"
    moments = random.Random(task)
    process = start(tmp_path, *settings)
    for lines in (3, 20, 41):  # before the first checkpoint, and twice after one
        wait_for_lines(path, lines, process)
        time.sleep(moments.uniform(0, 0.01))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        before = path.read_bytes()
        process = start(tmp_path, "resume=broken")
        process_lines = before[: before.rfind(b"\n") + 1]
        while process.poll() is None and len(path.read_bytes()) <= len(before):
            time.sleep(0.01)
        assert path.read_bytes().startswith(process_lines), "a line was rewritten"
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert [line["step"] for line in read_json_lines(path)] == list(
        range(len(read_json_lines(whole / "metrics.jsonl")))
    )
    assert_same_run(whole, broken)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, stop):
    whole = finished(tmp_path, "task=ridge", "trainer.steps=60", "hydra.run.dir=whole")
    process = start(
        tmp_path, "task=ridge", "trainer.steps=100000", "trainer.checkpoint_every=100000", "hydra.run.dir=run"
    )
    wait_for_lines(tmp_path / "run/metrics.jsonl", 15, process)
    process.send_signal(stop)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == "run\n"
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "interrupted"
    lines, done = len(read_json_lines(tmp_path / "run/metrics.jsonl")), summary["steps"]
    assert lines - done in (0, 1)  # a step that was stopped behind its line is taken again
    achieved, chosen, report, last = err.splitlines()
    assert achieved.endswith(f" at the start (interrupted after {done:,} outer steps).")
    assert chosen.startswith(f"The result so far is step {summary['best_step']} of {done}, because")
    assert report == "Report: run/report.html" and (tmp_path / "run/report.html").exists()
    assert last == f"bilevel: interrupted after {done:,} outer steps of 100,000; `bilevel resume=run` goes on."
    if done < 60:
        assert finished(tmp_path, "resume=run", "trainer.steps=60") == tmp_path / "run"
        assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_finished_run_is_resumed_to_the_same_end_and_can_go_further(tmp_path):
    run = finished(tmp_path, "task=ridge", "trainer.steps=10", "hydra.run.dir=run", "logger=wandb")
    record = (run / "metrics.jsonl").read_bytes()
    assert finished(tmp_path, "resume=run") == run
    assert (run / "metrics.jsonl").read_bytes() == record
    finished(tmp_path, "resume=run", "trainer.steps=25")
    assert (run / "metrics.jsonl").read_bytes().startswith(record)
    assert "steps: 25" in (run / ".hydra/config.yaml").read_text()
    finished(tmp_path, "resume=run")  # the change was recorded
    names = {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}
    assert len(names) == 1, "the W&B id was not kept"
    whole = finished(tmp_path, "task=ridge", "trainer.steps=25", "hydra.run.dir=whole")
    assert_same_run(whole, run)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("short"), "task=ridge", "trainer.steps=2", "hydra.run.dir=run")


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("task.precision=float32",), "task.precision=float32: the run was started with float64, .* cannot change"),
        (("optimizer._target_=optax.sgd",), "was written by another task"),
        (("engine=unrolled",), "engine=unrolled: a run that goes on keeps its engine"),
        (("trainer.nope=1",), "There is no setting trainer.nope"),
    ],
)
def test_a_resume_that_does_not_fit_is_refused(short_run, arguments, sentence):
    process = start(short_run.parent, "resume=run", *arguments)
    _, err = process.communicate()
    assert process.returncode != 0
    assert len(err.splitlines()) == 1
    assert re.search(sentence, err), err
