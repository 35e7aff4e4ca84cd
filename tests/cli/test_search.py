"""The search above the gradients: spaces, refusals, pruned trials, and a study that a kill does not lose."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from bilevel.cli.search import distribution, offer
from bilevel.cli.sentences import SettingsError
from bilevel.loggers import read_json_lines
from bilevel.training.run_folder import RunFolder

SPACES = {
    "task.penalties=single,per_class": CategoricalDistribution(["single", "per_class"]),
    "task.images=choice(1,10)": CategoricalDistribution([1, 10]),
    "task.width=range(8,33,8)": CategoricalDistribution([8, 16, 24, 32]),
    "task.width=int(interval(8,32))": IntDistribution(8, 32),
    "optimizer.learning_rate=tag(log,interval(1e-3,1))": FloatDistribution(1e-3, 1.0, log=True),
}
TRIALS = 8
SEARCH = (
    *("-m", "hydra/sweeper=search", f"hydra.sweeper.trials={TRIALS}", "task._target_=mine.shrinkage"),
    *("trainer.steps=12", "trainer.checkpoint_every=1", "task.features=4,2", "logger=none", "report=false"),
    "optimizer.learning_rate=tag(log,interval(0.001,0.5))",
)


def parsed(text):
    (override,) = OverridesParser.create().parse_overrides([text])
    return distribution(override)


@pytest.mark.parametrize("text", SPACES)
def test_swept_values_are_distributions(text):
    assert parsed(text) == SPACES[text]


@pytest.mark.parametrize("text", ["a=interval(2,1)", "a=tag(log,interval(0,1))"])
def test_an_empty_interval_is_refused(text):
    with pytest.raises(SettingsError, match="an interval needs low < high"):
        parsed(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("task=ridge",), "nothing is searched; give a setting several values"),
        (("task=ridge,lasso", "hydra.sweeper.trials=0"), "hydra.sweeper.trials=0, at_once=1: both must be at least 1."),
        (("task=ridge,lasso", "hydra.sweeper.sampler=cma"), "hydra.sweeper.sampler=cma: choose one of tpe, random."),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(bilevel, arguments, sentence):
    done = bilevel("-m", "hydra/sweeper=search", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert sentence in done.stderr


def test_a_search_without_a_sweep_is_refused():
    with pytest.raises(SettingsError, match="add -m"):
        offer(["hydra/sweeper=search", "task=ridge"])


@pytest.mark.slow
def test_a_killed_search_goes_on_and_repeats_no_trial(bilevel, folder, environment):
    with subprocess.Popen([sys.executable, "-m", "bilevel", *SEARCH], cwd=folder, env=environment) as process:
        end = time.monotonic() + 200
        while not list(folder.glob("multirun/*/2/checkpoints/*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = bilevel(*SEARCH)
    assert done.returncode == 0, done.stderr
    (place,) = (folder / "multirun").iterdir()
    trials = optuna.load_study(study_name="search", storage=f"sqlite:///{place / 'search.db'}").trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert sorted(path.name for path in place.iterdir() if path.is_dir()) == [str(number) for number in range(TRIALS)]
    pruned = 0
    for trial in trials:
        summary = json.loads((place / str(trial.number) / "summary.json").read_text())
        steps = [line["step"] for line in read_json_lines(place / str(trial.number) / "metrics.jsonl")]
        assert steps == list(range(len(steps)))
        if trial.state == TrialState.PRUNED:
            pruned += 1
            assert summary["status"] == "stopped_by_callback" and len(steps) < 12
        else:
            assert trial.state == TrialState.COMPLETE and len(steps) == 12
            assert trial.value == pytest.approx(summary["best_outer_loss"])
    assert pruned > 0
    more = bilevel(*SEARCH, f"hydra.sweeper.trials={TRIALS + 1}")
    assert more.returncode == 0, more.stderr
    assert (place / str(TRIALS) / "summary.json").is_file()
    other = bilevel(*SEARCH, f"output={place}", "optimizer.learning_rate=tag(log,interval(0.01,0.5))")
    assert other.returncode == 2 and "in other ranges" in other.stderr


@pytest.mark.slow
def test_a_search_on_ray_makes_up_for_a_killed_worker_and_a_killed_driver(folder, environment, tmp_path):
    pytest.importorskip("ray", reason="ray is an extra")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the launcher of ray is an extra")
    of_ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(tmp_path)}
    path = os.pathsep.join((os.environ.get("PYTHONPATH", ""), str(folder)))
    line = (*SEARCH, "hydra.sweeper.trials=3", "hydra.sweeper.at_once=2", "hydra.sweeper.prune=false")
    command = [sys.executable, "-m", "bilevel", *line, "hydra/launcher=ray"]
    start = functools.partial(
        subprocess.Popen, command, cwd=folder, env={**environment, **of_ray, "PYTHONPATH": path}, text=True
    )
    with start(stderr=subprocess.PIPE) as process:
        one = wait_for(lambda: list(folder.glob("multirun/*/1/checkpoints/*")), process)[0].parents[1]
        os.kill(int((one / "run.lock").read_text().split()[1]), signal.SIGKILL)  # Ray starts the run again
        wait_for(lambda: list(folder.glob("multirun/*/2/checkpoints/*")), process)
        process.kill()
    with start(stderr=subprocess.PIPE) as process:
        _, told = process.communicate(timeout=800)
    assert process.returncode == 0, told
    (place,) = (folder / "multirun").iterdir()
    trials = optuna.load_study(study_name="search", storage=f"sqlite:///{place / 'search.db'}").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    for number in range(3):
        assert [line["step"] for line in read_json_lines(place / str(number) / "metrics.jsonl")] == list(range(12))


def wait_for(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_two_searches_in_one_folder_are_refused(bilevel, folder):
    with RunFolder(folder / "taken"):
        done = bilevel(*SEARCH, "output=taken")
    assert done.returncode == 2 and "is writing a run there" in done.stderr
    assert not (folder / "taken" / "search.db").exists()
