"""metrics.jsonl holds one line a step, whatever happened to the process in between."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel.loggers import JsonLines, Run, read_json_lines


def follow(directory, steps, start=0, resumed=False, scale=1.0):
    logger = JsonLines()
    logger.start(Run(directory=directory, resumed=resumed), start)
    for step in steps:
        logger.log(step, {"outer/loss": scale / (step + 1)})
    return logger


def test_one_line_a_step_readable_at_once(tmp_path):
    logger = JsonLines()
    logger.start(Run(directory=tmp_path))
    for step in range(3):
        logger.log(step, {"outer/loss": jnp.asarray(1 / 3), "inner/steps": np.int32(7), "status": "converged"})
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1] == {"step": step, "outer/loss": 1 / 3, "inner/steps": 7, "status": "converged"}
        assert len(lines) == step + 1
    logger.finish({})


def test_a_nan_stays_a_nan(tmp_path):
    logger = follow(tmp_path, [])
    logger.log(0, {"outer/loss": float("nan"), "bound": float("inf")})
    logger.finish({})
    (line,) = read_json_lines(tmp_path / "metrics.jsonl")
    assert math.isnan(line["outer/loss"])
    assert line["bound"] == float("inf")


@pytest.mark.parametrize("torn", ["", '{"step": 6, "outer/lo', "{"])
def test_a_resumed_run_appends_and_rewrites_nothing(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    follow(tmp_path, range(6))  # killed: never finished
    before = path.read_text()
    path.write_text(before + torn)
    follow(tmp_path, range(4, 10), start=4, resumed=True, scale=2.0).finish({})  # the checkpoint held four steps
    assert path.read_text().startswith(before)
    assert [line["step"] for line in read_json_lines(path)] == list(range(10))
    assert all(path.read_text().endswith(end) for end in ("\n", "}\n"))


def test_the_directory_holds_figures_and_the_summary(tmp_path):
    logger = JsonLines()
    logger.start(Run(directory=tmp_path / "new"))
    figure = Figure()
    figure.subplots().plot([0, 1])
    logger.figure("weights", figure)
    logger.finish({"status": "completed", "best_outer_loss": jnp.asarray(0.1), "counts": {"gradients": np.int64(3)}})
    assert (tmp_path / "new/figures/weights.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "new/summary.json").read_text())
    assert summary == {"status": "completed", "best_outer_loss": 0.1, "counts": {"gradients": 3}}


def test_a_directory_in_use_is_refused(tmp_path):
    follow(tmp_path, range(2)).finish({})
    with pytest.raises(ValueError, match="holds a run already"):
        follow(tmp_path, range(2))


def test_no_directory_is_refused():
    with pytest.raises(ValueError, match="directory"):
        JsonLines().start(Run())
