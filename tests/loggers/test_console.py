"""The terminal: progress and a table where stderr is one, silence where it is not."""

import io

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
