"""What a run survives: kills at any file event, two processes in one folder, a full disk, damaged files, interrupts.

All slow: real processes, minutes in all. ``pytest -m slow tests/test_faults.py``.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bilevel.loggers import read_json_lines

pytestmark = pytest.mark.slow

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "jax"
STEPS = 12

MINE = '''
import os, signal, time
import builtins, io
import jax.numpy as jnp
import bilevel as bl

events, at = [0], int(os.environ.get("KILL_AT", "-1"))


def counted(function):
    """The function, which is a file event: the process dies before its number ``at``."""
    def call(*args, **kwargs):
        events[0] += 1
        if events[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call


def slow_baseline():
    if os.environ.get("SLOW") == "baselines":
        open("in_baselines", "w").close()
        time.sleep(60)
    return {"baseline_loss": 1.0}


def slow_figure(result):
    from matplotlib.figure import Figure
    if os.environ.get("SLOW") == "figures":
        open("in_figures", "w").close()
        time.sleep(60)
    return Figure()


def task(features: int = 4):
    if at >= 0:
        for name in ("replace", "rename", "fsync", "mkdir", "unlink", "write", "open"):
            setattr(os, name, counted(getattr(os, name)))
    x = jnp.arange(1.0, 1.0 + 5 * features).reshape(5, features) % 3 - 1
    y = x.sum(axis=1) + jnp.array([0.1, -0.2, 0.3, 0.0, -0.1])
    error = lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
        init=lambda key, h: jnp.zeros(features), solver=bl.GradientDescent(tol=1e-8))
    return bl.Task(inner=inner, outer_loss=error, init_hparams=lambda key: jnp.zeros(()),
                   batches=bl.full_batch((x[:3], y[:3]), (x[3:], y[3:])),
                   baselines=slow_baseline, figures={"own": slow_figure})
'''
COMMON = ("task._target_=mine.task", "progress=false", "trainer.checkpoint_every=1")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def start(folder, *arguments, cwd=None, **variables):
    environment = {**os.environ, "BILEVEL_CACHE": str(CACHE), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "bilevel", *arguments],
        cwd=cwd or folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(folder, *arguments, **variables):
    process = start(folder, *arguments, **variables)
    out, err = process.communicate(timeout=800)
    return process.returncode, out, err


def without_times(path):
    lines = read_json_lines(path)
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in lines]


def assert_same(one, other):
    assert without_times(one / "metrics.jsonl") == without_times(other / "metrics.jsonl")
    with np.load(one / "result.npz") as mine, np.load(other / "result.npz") as whole:
        assert {name: mine[name].tobytes() for name in mine} == {name: whole[name].tobytes() for name in whole}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.py").write_text(MINE)
    code, _, err = run(folder, *COMMON, f"trainer.steps={STEPS}", "hydra.run.dir=run")
    assert code == 0, err
    return folder / "run"


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_file_event_loses_nothing(folder, whole, seed):
    chosen = random.Random(seed)
    arguments = (*COMMON, f"trainer.steps={STEPS}")
    code, _, err = run(folder, *arguments, "hydra.run.dir=run", KILL_AT=str(chosen.randrange(1, 120)))
    for _ in range(4):  # it is killed while it goes on, too
        if code == 0:
            break
        assert code == -signal.SIGKILL, err
        again = ("resume=run",) if (folder / "run/.hydra/config.yaml").exists() else (*arguments, "hydra.run.dir=run")
        code, _, err = run(folder, *again, KILL_AT=str(chosen.randrange(40, 160)))
    if code != 0:
        assert run(folder, "resume=run", KILL_AT="-1")[0] == 0
    assert_same(folder / "run", whole)


def test_two_starts_and_two_resumes_in_one_folder(folder, whole):
    """One of two writes; the other says so and leaves everything alone."""
    both = [start(folder, *COMMON, f"trainer.steps={STEPS}", "hydra.run.dir=run") for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 2], told
    assert any("is writing a run there" in text or "holds a run already" in text for text in told)
    assert_same(folder / "run", whole)
    both = [start(folder, "resume=run", f"trainer.steps={2 * STEPS}") for _ in range(2)]
    told = [process.communicate()[1] for process in both]
    assert 0 in [process.returncode for process in both], told
    steps = [line["step"] for line in read_json_lines(folder / "run/metrics.jsonl")]
    assert steps == list(range(2 * STEPS))


@pytest.mark.parametrize("files", range(15))
def test_a_damaged_file_of_the_last_checkpoint(whole, tmp_path, files):
    """Each file of the newest checkpoint in turn, in a way of five."""
    (tmp_path / "mine.py").write_text(MINE)
    shutil.copytree(whole, tmp_path / "run")
    last = tmp_path / "run/checkpoints" / str(STEPS)
    paths = sorted(path for path in last.rglob("*") if path.is_file())
    path = paths[files % len(paths)]
    content = bytearray(path.read_bytes())
    kind = ("removed", "emptied", "cut", "flipped", "garbage")[files % 5]
    if kind == "removed":
        path.unlink()
    elif kind == "flipped" and content:
        content[len(content) // 3] ^= 0x40
        path.write_bytes(bytes(content))
    else:
        path.write_bytes({"cut": bytes(content[: len(content) // 2]), "garbage": b"\x00garbage"}.get(kind, b""))
    code, _, err = run(tmp_path, "resume=run", f"trainer.steps={STEPS + 2}")
    assert code == 0, err
    assert "Traceback" not in err
    assert [line["step"] for line in read_json_lines(tmp_path / "run/metrics.jsonl")] == list(range(STEPS + 2))
    assert without_times(tmp_path / "run/metrics.jsonl")[:STEPS] == without_times(whole / "metrics.jsonl")


def interrupted(process, wait, signals=1):
    wait()
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, err = process.communicate(timeout=800)
    return process.returncode, err


@pytest.mark.parametrize("after", [0.3, 0.6, 1.0, 1.6, 2.5])
def test_an_interrupt_while_everything_is_imported(folder, after):
    process = start(folder, *COMMON, "trainer.steps=100000", "hydra.run.dir=run")
    code, err = interrupted(process, lambda: time.sleep(after))
    if code == -signal.SIGINT or "site" in err:
        pytest.skip("the interpreter itself was still starting: no line of bilevel had run")
    assert code == 130, err
    assert err.splitlines()[-1].startswith("bilevel: interrupted") and "Traceback" not in err, err
    assert len(err.splitlines()) == 1 or (folder / "run/metrics.jsonl").exists(), err


@pytest.mark.parametrize("place", ["figures", "baselines"])
@pytest.mark.parametrize("signals", [1, 3])
def test_an_interrupt_after_the_last_step_keeps_the_result(folder, place, signals):
    process = start(folder, *COMMON, "trainer.steps=2", "hydra.run.dir=run", SLOW=place)

    def wait():
        while not (folder / f"in_{place}").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)

    code, err = interrupted(process, wait, signals)
    assert code == 130, err
    achieved, chosen, report, last = err.splitlines()
    assert "(interrupted after 2 outer steps)" in achieved and "of 2, because" in chosen
    assert report == "Report: run/report.html" and (folder / "run/report.html").exists()
    assert last.startswith(f"bilevel: interrupted after 2 outer steps of 2, during the phase {place}; `bilevel resume=")
    assert (folder / "run/result.npz").exists()
    assert run(folder, "resume=run")[0] == 0


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGHUP"])
def test_a_scheduler_and_a_terminal_that_closes_stop_a_run(folder, stop):
    process = start(folder, *COMMON, "trainer.steps=100000", "hydra.run.dir=run")
    while len(read_json_lines(folder / "run/metrics.jsonl")) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(getattr(signal, stop))
    _, err = process.communicate(timeout=800)
    assert process.returncode == 130, err
    achieved, chosen, report, last = err.splitlines()
    assert re.match(r"task: outer loss [\d.]+; [\d.]+ at the start \(interrupted after \d+ outer steps\)\.", achieved)
    assert "has the lowest outer loss" in chosen and report == "Report: run/report.html"
    assert "of 100,000; `bilevel resume=run` goes on" in last
    summary = json.loads((folder / "run/summary.json").read_text())
    with np.load(folder / "run/result.npz") as found:
        assert summary["hparams"] == {"hparams": float(found["hparams"])}
    lines = read_json_lines(folder / "run/metrics.jsonl")
    assert summary["best_outer_loss"] == min(line["outer/loss"] for line in lines[: summary["steps"]])
    assert (folder / "run/result.npz").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a small file system is mounted as root")
def test_a_full_disk_is_one_sentence(folder):
    place = folder / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    try:
        code, _, err = run(folder, *COMMON, "trainer.steps=400", f"hydra.run.dir={place}/run")
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    assert code == 1, err
    (line,) = err.splitlines()
    assert "No space left on device" in line


def test_a_folder_that_vanishes_is_one_sentence(folder):
    process = start(folder, *COMMON, "trainer.steps=100000", "hydra.run.dir=run")
    while len(read_json_lines(folder / "run/metrics.jsonl")) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.rmtree(folder / "run", ignore_errors=True)
    _, err = process.communicate(timeout=800)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1, err


VALUES = ("1", "0", "-1", "1e9", "nan", "many", "[]", "{}", "null", "true", "[1,2]", "'a b'", "${seed}", "${nope}")
KEYS = (
    *("trainer.steps", "trainer.patience", "trainer.checkpoint_every", "optimizer.learning_rate", "seed", "data.root"),
    *("task.train", "task.penalty", "task", "engine", "engine.on_failure", "solver", "logger", "progress"),
    *("compilation_cache", "nope", "trainer.nope", "command", "resume", "fork", "hydra.run.dir", "experiment"),
)


def test_a_hundred_overrides_end_in_a_run_or_in_one_sentence(tmp_path, monkeypatch):
    """In one process; the fit itself is not run."""
    from bilevel.cli import entry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(entry.COMMANDS, "train", "types:SimpleNamespace")
    monkeypatch.setattr("bilevel.cli.entry.quit_at_once", sys.exit)
    chosen = random.Random(0)
    for _ in range(100):
        words = [f"{chosen.choice(KEYS)}={chosen.choice(VALUES)}" for _ in range(chosen.choice((1, 1, 2)))]
        monkeypatch.setattr(sys, "argv", ["bilevel", *words])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # as a process of its own would find it
        told, code = io.StringIO(), 0
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            try:
                entry.run()
            except SystemExit as end:
                code = end.code or 0
        lines = told.getvalue().splitlines()
        assert (code, len(lines)) in ((0, 0), (1, 1), (2, 1)), (words, code, told.getvalue())
        assert all(len(line) < 600 and "Traceback" not in line for line in lines), (words, lines)
