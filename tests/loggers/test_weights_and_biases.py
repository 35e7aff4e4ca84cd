"""An offline W&B run, read back by W&B's own reader: config, ascending steps, summary, figures, id after a resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from bilevel.loggers import Run, WandB


def read_back(directory):
    """The records and the summary of the one run of a directory."""
    (run,) = (directory / "wandb").glob("offline-run-*")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    records = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.splitlines()
    summary = subprocess.run([*inspect, "--summary"], check=True, capture_output=True, text=True).stdout
    found = [json.loads(record) for record in records]
    history = [record["history"]["item"] for record in found if record["type"] == "history"]
    (start,) = (record["run"] for record in found if record["type"] == "run")
    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    return history, {**json.loads(summary), "group": start.get("run_group"), "artifacts": artifacts}


def follow(directory, steps, start=0, state=None, status="converged", group=None):
    logger = WandB(mode="offline", project="tests", group=group)
    logger.start(Run(directory=directory, config={"task": {"penalties": "single"}}, name="ridge"), start, state or {})
    for step in steps:
        logger.log(step, {"outer/loss": 1 / (step + 1), "inner/steps": 3, "hparams": [0.1 * step]})
    figure = Figure()
    figure.subplots().plot([0, 1])
    logger.figure("weights", figure)
    (directory / "report.html").write_text("<p>report</p>")
    found = {"hparams_natural": {"penalty": {"age": 0.5, "bmi": 2.0}}, "hparams": {"hparams": [7.5]}}
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
    assert run["summary"]["hparams"] == {"hparams": [7.5]}  # those found, not those of the last step
    assert history[-1]["hparams"] == [0.5]
    assert run["exit_code"] == 0
    assert run["run_id"] == state["id"]
    (report,) = (one for one in run["artifacts"] if one["type"] == "report")
    assert [entry["path"] for entry in report["manifest"]["contents"]] == ["report.html"]
    assert (tmp_path / "wandb" / f"latest-run/files/{history[-1]['figures/weights.path']}").exists()


@pytest.mark.slow
def test_a_resumed_run_keeps_id_group_and_steps(tmp_path):
    """The group, too, because one run of a sweep goes on alone, and no sweep names its group then."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    state = follow(first, range(1, 4), status="interrupted", group="sweep")
    assert read_back(first)[1]["exit_code"] == 1
    assert follow(second, range(4, 6), start=3, state=state) == state
    history, run = read_back(second)
    assert (run["run_id"], run["group"]) == (state["id"], "sweep")
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


EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/wandb_sweep.yaml"


def test_the_example_of_a_sweep_is_the_one_of_the_page():
    page = EXAMPLE.parents[1] / "command-line.md"
    assert f"```yaml\n{EXAMPLE.read_text()}```" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_an_agent_of_a_sweep_calls_the_command(tmp_path, seed):
    """What ``wandb agent`` does with a job, by its own functions, without the server that hands out the jobs."""
    from wandb.sdk.launch.sweeps import utils
    from wandb.sdk.lib import config_util

    sweep = yaml.safe_load(EXAMPLE.read_text())
    job = {"args": {"optimizer.learning_rate": {"value": 0.05}, "seed": {"value": seed}}}
    assert set(job["args"]) == set(sweep["parameters"])
    filled = utils.create_sweep_command_args(job)
    words = [
        word for part in utils.create_sweep_command(sweep["command"]) for word in filled.get(part.strip("${}"), [part])
    ]
    assert words[0] == "bilevel"
    settings = str(tmp_path / "settings.yaml")
    config_util.save_config_file_from_dict(settings, job["args"])
    agent = {"WANDB_SWEEP_ID": "abcd1234", "WANDB_RUN_ID": f"run{seed}", "WANDB_SWEEP_PARAM_PATH": settings}
    command = [sys.executable, "-m", *words, "trainer.steps=2", "output=out", "report=false"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **agent, "WANDB_MODE": "offline"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    _, run = read_back(tmp_path / "out")
    assert run["run_id"] == f"run{seed}"
    assert run["config"]["optimizer"]["learning_rate"] == 0.05 and run["config"]["seed"] == seed
    assert run["summary"][sweep["metric"]["name"]] > 0
