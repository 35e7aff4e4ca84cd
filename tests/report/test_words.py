"""The last lines of a run: each case says what is true of it, and the advice is a command that can be run."""

import math

import pytest

from bilevel.report.words import achieved, advice, chosen, closing, trust
from bilevel.verification import Record


def record(steps=20, error=1e-6, grade="estimate", summary=(), config=()):
    lines = [
        {"step": step, "outer/loss": 1 / (step + 1), "outer/grad_norm": 1.0, "error_estimate": error}
        | {"error_grade": grade, "inner/status": "converged", "adjoint/status": "converged", "outer/step_norm": 0.1}
        for step in range(steps)
    ]
    told = {"status": "completed", "steps": steps, "best_step": 3, "chosen_by": "outer/loss", "task": "own"}
    return Record(lines, {**told, **dict(summary)}, dict(config))


@pytest.mark.parametrize(
    ("error", "grade", "words"),
    [
        (1e-6, "estimate", "can be trusted: its error is estimated at 1e-06"),
        (1e-6, "bound", "can be trusted: its error is proven at 1e-06"),
        (0.3, "estimate", "is coarse: its error is estimated at 30.0%"),
        (1e-6, "residual", "an order of magnitude"),
        (math.inf, "residual", "is not known: at 20 of 20 steps"),
        (math.nan, "residual", "is not known"),
    ],
)
def test_whether_the_gradient_can_be_trusted(error, grade, words):
    assert words in trust(record(error=error, grade=grade))


def test_which_step_and_why():
    assert "step 3 of 20, because it has the lowest outer loss" in chosen(record())
    last = chosen(record(summary={"chosen_by": "last step", "best_step": -1}))
    assert "the last step, because the losses of other steps are on other batches" in last
    assert "stopped early" in chosen(record(summary={"status": "stopped_early"}))
    assert achieved(record(summary={"best_outer_loss": 0.25, "initial_outer_loss": 1.0})).startswith(
        "own: outer loss 0.25; 1 at the start."
    )


def test_one_thing_to_try_next():
    given = ["task=ridge", "trainer.steps=20"]
    assert advice(record(summary={"best_step": 20}), given, "my run") == (
        "The loss was still falling at the end, so take more steps: bilevel resume='my run' trainer.steps=40"
    )
    settled = record(steps=2000, summary={"best_step": 2000})  # of what it fell, 1/18000 in the last tenth
    assert "still falling" not in advice(settled, given, "run")
    judged = record(summary={"best_step": 20, "chosen_by": "stop/loss", "last_stop_loss": 0.5})
    judged = Record([{**line, "stop/loss": 0.6 - 0.01 * line["step"] / 19} for line in judged.lines], judged.summary)
    assert "still falling" in advice(judged, given, "run")
    stop = record(config={"task": {"stop": 0, "validation": 100}})
    assert "bilevel task=ridge trainer.steps=20 task.stop=50 trainer.patience=10" in advice(stop, given, "run")
    assert advice(record(), given, "run").endswith("bilevel task=ridge command=check")
    failing = Record([{**record().lines[-1], "inner/status": "max_steps"}], record().summary)
    assert "max_steps=100000" in advice(failing, given, "run")
    broken_off = record(summary={"status": "interrupted"})
    assert closing(broken_off, given, "my run", "") == [
        "own: the run was interrupted after 20 outer steps.",
        "The result so far is step 3 of 20, because it has the lowest outer loss.",
    ]
    head = {"sentence": "accuracy 0.9", "metric": "test/accuracy"}
    broken_off = record(
        summary={"status": "interrupted", "headline": head, "best_outer_loss": 0.25, "initial_outer_loss": 1.0}
    )
    told = closing(broken_off, given, "my run", "my run/report.html")
    assert told[0] == "own: accuracy 0.9 (interrupted after 20 outer steps)."
    assert told[1].endswith("the lowest outer loss. The outer loss went from 1 down to 0.25.")
    assert told[2:] == ["Report: my run/report.html"]
    assert advice(broken_off, given, "my run") == "Go on with the run: bilevel resume='my run'"
    assert closing(record(), given, "run", "run/report.html")[-2:][0] == "Report: run/report.html"
