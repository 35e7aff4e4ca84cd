"""An offline W&B run, read back by W&B's own reader: config, ascending steps, summary, figures, id after a resume."""

import json
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from bilevel.loggers import Run, WandB


def read_back(directory):
    """The records and the summary of the one run of a directory."""
    (run,) = (directory / "wandb").glob("offline-run-*")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    records = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.splitlines()
    summary = subprocess.run([*inspect, "--summary"], check=True, capture_output=True, text=True).stdout
    history = [record["history"]["item"] for record in map(json.loads, records) if record["type"] == "history"]
    return history, json.loads(summary)


def follow(directory, steps, start=0, state=None, status="converged"):
    logger = WandB(mode="offline", project="tests")
    logger.start(Run(directory=directory, config={"task": {"penalties": "single"}}, name="ridge"), start, state or {})
    for step in steps:
        logger.log(step, {"outer/loss": 1 / (step + 1), "inner/steps": 3})
    figure = Figure()
    figure.subplots().plot([0, 1])
    logger.figure("weights", figure)
    (directory / "report.html").write_text("<p>report</p>")
    found = {"hparams_natural": {"penalty": {"age": 0.5, "bmi": 2.0}}}
    logger.finish({"status": status, "test/accuracy": 0.95, "counts": {"gradients": 7}, **found})
    return logger.state()


@pytest.mark.slow
def test_an_offline_run_holds_everything(tmp_path, capfd):
    state = follow(tmp_path, range(1, 6))
    assert capfd.readouterr() == ("", "")
    history, run = read_back(tmp_path)
    kept = json.loads((tmp_path / f"wandb/latest-run/files/{history[-1]['hyperparameters.path']}").read_text())
    assert kept["data"] == [["penalty age", 0.5], ["penalty bmi", 2.0]]
    assert [row["outer/step"] for row in history] == [1, 2, 3, 4, 5]
    assert [row["_step"] for row in history] == [1, 2, 3, 4, 5]
    assert [row["outer/loss"] for row in history] == [1 / (step + 1) for step in range(1, 6)]
    assert run["config"]["task"] == {"penalties": "single"}
    assert run["summary"]["test/accuracy"] == 0.95
    assert run["summary"]["counts"] == {"gradients": 7}
    assert run["exit_code"] == 0
    assert run["run_id"] == state["id"]
    assert (tmp_path / "wandb" / f"latest-run/files/{history[-1]['figures/weights.path']}").exists()


def test_a_resumed_run_keeps_id_and_steps(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    state = follow(first, range(1, 4), status="interrupted")
    assert read_back(first)[1]["exit_code"] == 1
    assert follow(second, range(4, 6), start=3, state=state) == state
    history, run = read_back(second)
    assert run["run_id"] == state["id"]
    assert [row["_step"] for row in history] == [4, 5]


def test_online_without_an_account_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for begin in (lambda logger: logger.ready(), lambda logger: logger.start(Run(directory=tmp_path))):
        with pytest.raises(ValueError, match=r"W&B did not start: .* logger\.mode=offline"):
            begin(WandB(mode="online"))
    WandB(mode="offline").ready()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="no mode 'ofline'"):
        WandB(mode="ofline")  # pyright: ignore[reportArgumentType]  # the wrong word is the test
