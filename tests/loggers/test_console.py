"""The terminal: progress and a table where stderr is one, silence where it is not."""

import io
import re
import sys
import time
from types import SimpleNamespace

import pytest

from bilevel.loggers import Console, Run

SUMMARY = {"status": "converged", "final_outer_loss": 0.123456789, "counts": {"gradients": 3}, "steps": 4}


def follow(console):
    console.start(Run(name="ridge", steps=4))
    for step in range(4):
        console.log(step, {"outer/loss": 0.5 / (step + 1), "inner/steps": 7})
    console.figure("weights", None)
    console.finish(SUMMARY)


def test_a_terminal_sees_progress_and_the_table():
    file = io.StringIO()
    follow(Console(every=0.0, file=file))
    assert "ridge" in file.getvalue()
    assert "outer/loss 0.125" in file.getvalue()
    assert "inner/steps 7" in file.getvalue()
    assert "0.1235" in file.getvalue()
    assert "converged" in file.getvalue()


def test_a_pipe_sees_nothing(capfd):
    follow(Console(every=0.0))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("width", [80, 110])
def test_count_time_and_loss_stay_visible(width):
    file = io.StringIO()
    console = Console(every=0.0, file=file, width=width)
    console.start(Run(name="a_task_with_a_rather_long_name", steps=1000))
    console.log(498, {"outer/loss": 0.123456, "inner/steps": 7, "outer/grad_norm": 0.5})
    line = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", file.getvalue()).replace("\r", "\n").strip().splitlines()[-1]
    assert "499/1000" in line and "outer/loss 0.1235" in line and re.search(r"\d:\d\d:\d\d", line), line
    console.phase("baselines")
    assert "baselines" in file.getvalue()
    console.finish(SUMMARY)


@pytest.mark.parametrize("width", [80, 110])
def test_a_phase_says_how_far_it_is(width):
    file = io.StringIO()
    console = Console(every=0.0, file=file, width=width)
    console.start(Run(name="a_task_with_a_rather_long_name", steps=1000))
    console.phase("baselines")
    for done in range(3):
        console.within("penalties", done, 7)
    console.phase("figures")
    console.within("figures", 1, 3)
    console.finish(SUMMARY)
    shown = file.getvalue()
    assert "baselines: penalties 2/7 0 s" in shown and "figures 0 s" in shown and "figures: 1/3 0 s" in shown


def test_the_clock_goes_on_within_a_phase():
    file = io.StringIO()
    console = Console(file=file, width=80)
    console.start(Run(name="ridge", steps=4))
    console.phase("baselines")
    deadline = time.monotonic() + 60
    while "baselines 1 s" not in file.getvalue() and time.monotonic() < deadline:  # drawn by a thread of its own
        time.sleep(0.05)
    console.finish(SUMMARY)
    assert "baselines 0 s" in file.getvalue() and "baselines 1 s" in file.getvalue()


def told(profile):
    file = io.StringIO()
    console = Console(every=0.0, file=file)
    console.start(Run(name="ridge", steps=4, profile=profile))
    console.finish(
        {
            **{"task": "ridge", "status": "completed", "best_outer_loss": 0.1, "initial_outer_loss": 0.4},
            **{"final_outer_loss": 0.2, "test_r2": 0.5, "initial_test_r2": 0.3, "last_test_r2": 0.45},
            **{"baseline_test_r2": 0.42, "seconds_total": 3.0, "seconds_compiling": 2.5, "counts": {"gradients": 9}},
            "headline": {"name": "test R2", "baselines": {"with one penalty": 0.42}},
        }
    )
    lines = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", file.getvalue()).splitlines()
    return [line.split() for line in lines if line.strip()]


def test_the_table_is_grouped_in_the_words_of_the_task():
    rows = told(profile=False)
    assert ["outer", "loss", "0.1", "0.4", "0.2"] in rows
    assert ["test", "r2", "0.5", "0.3", "0.45"] in rows
    assert ["test", "R2", "with", "one", "penalty", "0.42"] in rows
    assert ["gradients", "9"] in rows
    assert ["seconds", "compiling", "2.5"] not in rows and not any("baseline" in row for row in rows)
    assert ["seconds", "compiling", "2.5"] in told(profile=True)


def test_a_notebook_shows_one_line_that_changes(monkeypatch):
    told = []
    output = SimpleNamespace(update=lambda data, raw: told.append(data["text/plain"]))
    display = SimpleNamespace(display=lambda data, raw, display_id: output)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    console = Console(every=0.0, file=io.StringIO())
    console.terminal.is_jupyter = True
    console.start(Run(steps=3, name="ridge"))
    console.log(0, {"outer/loss": 0.5})
    console.phase("final solve")
    console.progress.stop()
    assert [line.split(" s ")[0] for line in told] == ["ridge  0/3  0", "ridge  1/3  0", "ridge  1/3  0"]
    assert [line.split(" s  ")[1] for line in told] == ["compiling", "outer/loss 0.5", "final solve"]


def test_what_did_not_happen_is_no_row_and_phases_know_all_steps():
    file = io.StringIO()
    console = Console(every=1e9, file=file, width=80)
    console.start(Run(name="ridge", steps=4))
    for step in range(4):
        console.log(step, {"outer/loss": 0.5})
    console.phase("final solve")
    same = {"final_grad_norm": 0.25, "projected_grad_norm": 0.25, "blocked": False}
    console.finish({**SUMMARY, **same, "retries": 0, "counts": {"gradients": 3, "proxes": 0}})
    told = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", file.getvalue())
    assert "4/4" in told and "final grad norm" in told
    assert not any(word in told for word in ("projected", "blocked", "retries", "proxes"))
