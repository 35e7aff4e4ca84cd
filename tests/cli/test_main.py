"""What a user sees: answers within a second, one sentence for each mistake, an exit code that tells."""

import csv
import json
import re
import resource
import subprocess
import sys

import pytest
import yaml

import bilevel as bl
from bilevel.loggers import read_json_lines

MINE = ("task._target_=mine.shrinkage", "trainer.steps=3")


def complaints(done):
    """The lines of stderr that are no part of what a run says at its end."""
    return [line for line in done.stderr.splitlines() if line.startswith("bilevel")]


def seconds_of(action):
    """Processor time of the processes that an action starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "arguments", [("--help",), ("--cfg", "job"), ("--cfg", "job", "task=own"), ("--info", "searchpath")]
)
def test_questions_are_answered_within_a_second(bilevel, arguments):
    done, seconds = seconds_of(lambda: bilevel(*arguments))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert seconds < 1.0


def test_help_names_every_group_and_its_options(bilevel):
    text = bilevel("--help").stdout
    for line in (
        "engine: adaptive, amigo, auto, bome, ",
        "logger: console, jsonl, none, wandb",
        "optimizer: adam, lbfgs, rprop, sgd, ",
        "task: ",
    ):
        assert line in text
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 120  # one screen


def test_help_and_lists_load_no_jax(bilevel, folder):
    (folder / "jax.py").write_text("raise RuntimeError('jax was loaded')")
    for arguments in (("--help",), ("command=list",), ("command=list", "optimizers"), ("command=list", "data")):
        done, seconds = seconds_of(lambda arguments=arguments: bilevel(*arguments))
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert seconds < 1.0
    assert "data=ijcnn1" in done.stdout


@pytest.mark.slow
def test_a_sweep_ends_with_a_table_best_first(bilevel, folder):
    done = bilevel("-m", *MINE, "task.features=4,2", "output=sweep", "report=false")
    assert done.returncode == 0, done.stderr
    header, *rows = list(csv.reader((folder / "sweep/sweep.csv").open()))
    losses = [float(row[header.index("outer loss")]) for row in rows]
    assert header[:3] == ["run", "task", "task.features"] and losses == sorted(losses)
    assert "task.features" in done.stderr and (folder / "sweep/report.html").is_file()
    assert not (folder / "sweep/0/report.html").exists()


@pytest.mark.slow
def test_a_finished_run_says_so(bilevel, folder):
    assert bilevel(*MINE, "output=run").returncode == 0
    done = bilevel("resume=run")
    assert done.returncode == 0 and done.stdout == "run\n"
    assert done.stderr.startswith("run is already finished: shrinkage: outer loss ")
    assert done.stderr.rstrip().endswith("bilevel resume=run trainer.steps=6")
    refused = bilevel("resume=run", "output=elsewhere")
    assert refused.returncode == 2 and "leave out output" in refused.stderr


def test_names_need_no_file(bilevel):
    done = bilevel(
        *("optimizer=lion", "schedule=cosine_decay", "engine.linear_solve=gmres", "solver=active_set_newton"),
        *("--cfg", "job", "--resolve"),
    )
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load(done.stdout)
    rate = settings["optimizer"]["learning_rate"]
    assert settings["optimizer"]["_target_"] == "optax.lion"
    assert rate["_target_"] == "optax.cosine_decay_schedule" and rate["decay_steps"] == settings["trainer"]["steps"]
    assert settings["engine"]["linear_solve"]["_target_"] == "bilevel.GMRES"
    assert settings["solver"]["_target_"] == "bilevel.ActiveSetNewton"
    wrong = bilevel("engine.linear_solve=gmre")
    assert wrong.returncode == 2 and "(did you mean gmres?)" in wrong.stderr
    typo = bilevel("trainer.stepz=3")
    assert "did you mean trainer.steps=VALUE?" in typo.stderr and "+trainer" not in typo.stderr


WRONG = {
    "task=nope": r"task=nope: there is no such task; choose one of",
    "task=hypercleen": r"did you mean hyperclean\?",
    "engine=nope": "engine=nope: there is no such engine",
    "optimizer=nope": "optimizer=nope: there is no such optimizer",
    "logger=nope": "logger=nope: there is no such logger",
    "experiment=nope": "experiment=nope: there is no such experiment",
    "command=nope": "command=nope: there is no such command; choose one of train",
    "trainer.nope=1": "There is no setting trainer.nope",
    "nope=1": "nope",
    "trainer.checkpoint_every=many": "trainer.checkpoint_every=many: a whole number is needed, as in",
    "trainer.steps=many": "trainer.steps=many: a whole number is needed, as in trainer.steps=",
    "trainer.steps=1.5": "trainer.steps=1.5: a whole number is needed",
    "trainer.steps=true": "trainer.steps=True: a whole number is needed",
    "trainer.steps=-1": "trainer.steps=-1: it must be positive",
    "trainer.steps=[": "trainer.steps",
    "trainer=3": "must be a string",
    "optimizer.learning_rate=fast": "optimizer.learning_rate=fast: a number is needed",
    "optimizer.learning_rate=nan": "optimizer.learning_rate",
    "optimizer.learning_rate=-0.1": "optimizer.learning_rate=-0.1: it must be positive",
    "progress=3": "progress=3: true or false is needed",
    "seed=x": "seed=x: a whole number is needed",
    "data.root=/no/such/folder": "data.root=/no/such/folder: there is no such folder",
    "resume=/no/such/folder": "resume=/no/such/folder: no run is recorded there",
    "task._target_=no.such.function": "there is no function no.such.function",
    "task._target_=mine.no_such": "mine has no no_such",
    "optimizer._target_=optax.adm": r"optax has no adm \(did you mean adam\?\)",
    "task._target_=mine.no_task": r"task._target_=mine.no_task gives a int; task needs a Task\.",
    "task._target_=mine": r"task\._target_ names a module, and has to name a function",
    "task._target_=mine.ready task.features=3": "task.features: mine.ready is a task and takes no settings",
    "task=mine.ready": r"one of your own, or of another package, is task\._target_=MODULE\.NAME",
    "task._target_=mine.broken": "ZeroDivisionError: one over zero",
    "task=own": r"task._target_=VALUE is needed",
    "task.fraction=1.5": "A fraction of 1.5 of the labels",
    "task.data=nope": "no data set 'nope'",
    "task.precision=float16": "task.precision=float16: choose one of float32, float64",
    "engine.on_failure=shrug": "engine.on_failure=shrug: choose one of raise",
    "--config-dir=nowhere": "nowhere",
    "--no-such-flag": "--no-such-flag",
}


@pytest.mark.sample(8)
@pytest.mark.parametrize("argument", WRONG)
def test_a_mistake_ends_with_one_sentence(bilevel, folder, argument):
    done, seconds = seconds_of(lambda: bilevel(*argument.split()))
    assert done.returncode not in (0, None)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert re.search(WRONG[argument], lines[-1]), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("outputs/**/metrics.jsonl"))
    assert seconds < 8.0  # nothing was compiled


def test_debug_shows_the_traceback(bilevel):
    for done in (bilevel("trainer.steps=0", "debug=true"), bilevel("trainer.steps=0", HYDRA_FULL_ERROR="1")):
        assert done.returncode != 0
        assert "Traceback" in done.stderr


def test_a_task_of_the_users_own(bilevel, folder):
    done = bilevel(*MINE, "task.features=6")
    assert done.returncode == 0, done.stderr
    run = folder / done.stdout.strip()
    assert run.name.endswith("-shrinkage")
    said = done.stderr.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["shrinkage:", "The", "The", "Report:", "Next:"]
    assert said[3] == f"Report: {done.stdout.strip()}/report.html" and (run / "report.html").is_file()
    assert len(read_json_lines(run / "metrics.jsonl")) == 3
    summary = json.loads((run / "summary.json").read_text())
    assert summary["task"] == "shrinkage"
    assert summary["steps"] == 3
    assert {path.name for path in (run / "figures").iterdir()} == {"training.png", "hyperparameters.png"}
    assert (run / "result.npz").exists()
    assert "features: 6" in (run / ".hydra/config.yaml").read_text()


@pytest.mark.slow
def test_a_task_that_a_module_holds_as_it_is(bilevel, folder):
    done = bilevel("task._target_=mine.ready", "trainer.steps=1", "hydra.run.dir=run")
    assert (done.returncode, complaints(done)) == (0, [])
    assert json.loads((folder / "run/summary.json").read_text())["task"] == "ready"


def test_the_version_is_that_of_the_library(bilevel):
    assert bilevel("--version").stdout == f"bilevel {bl.__version__}\n"


@pytest.mark.slow
def test_settings_of_the_users_own(bilevel, folder):
    (folder / "settings/task").mkdir(parents=True)
    (folder / "settings/task/mine.yaml").write_text("_target_: mine.shrinkage\nfeatures: 5\n")
    done = bilevel("--config-dir=settings", "task=mine", "trainer.steps=2", "task.features=3", "compilation_cache=null")
    assert done.returncode == 0, done.stderr
    run = folder / done.stdout.strip()
    assert run.name.endswith("-mine")
    assert json.loads((run / "summary.json").read_text())["task"] == "mine"
    assert "features: 3" in (run / ".hydra/config.yaml").read_text()


@pytest.mark.slow
def test_an_unknown_argument_of_the_users_task(bilevel):
    done = bilevel(*MINE, "task.colour=3")
    assert done.returncode == 2
    assert done.stderr == "bilevel: task takes no setting colour; leave out task.colour.\n"
    near = bilevel(*MINE, "task.max_step=3")
    assert (
        near.stderr == "bilevel: task takes no setting max_step (did you mean max_steps?); leave out task.max_step.\n"
    )


@pytest.mark.slow
def test_a_failed_solve_ends_with_one_sentence(bilevel, folder):
    done = bilevel(*MINE, "task.max_steps=2", "hydra.run.dir=run")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("bilevel: Outer step 0: The inner solve ended with status max_steps after 2 steps")
    assert json.loads((folder / "run/summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_to_is_told_in_one_line(bilevel, folder):
    (folder / "file").write_text("")
    done = bilevel(*MINE, "hydra.run.dir=run", "compilation_cache=file/cache")
    assert done.returncode == 0
    assert complaints(done) == ["bilevel: compilation_cache=file/cache: nothing is kept there (Not a directory)."]


@pytest.mark.slow
def test_a_directory_in_use_is_refused(bilevel):
    assert bilevel(*MINE, "hydra.run.dir=run").returncode == 0
    done = bilevel(*MINE, "hydra.run.dir=run")
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert "holds a run already" in line


@pytest.mark.slow
def test_a_sweep_runs_what_can_run(bilevel, folder):
    done = bilevel(
        "-m", *MINE, "task.max_steps=2,200", "engine=implicit,one_step", "hydra.sweep.dir=sweep", "logger=none"
    )
    assert done.returncode == 1
    summaries = [json.loads((folder / f"sweep/{number}/summary.json").read_text()) for number in range(4)]
    assert [summary["status"] for summary in summaries] == ["failed", "failed", "completed", "completed"]
    told = [line for line in done.stderr.splitlines() if line.startswith("bilevel [")]
    assert len(told) == 2
    assert all("task.max_steps=2" in line and "max_steps after 2 steps" in line for line in told)
    assert done.stderr.splitlines()[-1].startswith(
        "bilevel: not every run of the sweep succeeded; the first that failed: "
    )
    assert "Traceback" not in done.stderr


def test_a_wrong_name_in_a_sweep_ends_it_before_the_first_run(bilevel, folder):
    done = bilevel("-m", *MINE, "engine=implicit,nope", "hydra.sweep.dir=sweep")
    assert done.returncode != 0
    assert "engine=nope: there is no such engine" in done.stderr
    assert not list(folder.glob("sweep/*/metrics.jsonl"))


def test_the_data_sets_are_listed(bilevel, folder):
    done = bilevel("command=data")
    assert done.returncode == 0
    assert "digits: 1,797 x 64" in done.stdout
    assert "shipped with sklearn" in done.stdout
    assert not (folder / "outputs").exists()


@pytest.mark.slow
def test_wandb_is_offline_unless_told(bilevel, folder):
    done = bilevel(*MINE, "logger=wandb", "hydra.run.dir=run")
    assert (done.returncode, complaints(done)) == (0, [])
    assert len(list((folder / "run/wandb").glob("offline-run-*"))) == 1
    wrong = bilevel(*MINE, "logger=wandb", "logger.mode=sideways")
    assert "logger.mode=sideways: choose one of offline, online, disabled" in wrong.stderr


@pytest.mark.slow
def test_the_runs_of_a_sweep_share_a_group_and_one_that_goes_on_keeps_it(bilevel, folder):
    for typed in (("-m", *MINE, "seed=0,1", "logger=wandb", "output=sweep"), ("resume=sweep/0", "trainer.steps=9")):
        assert bilevel(*typed).returncode == 0
    found = []
    for run in sorted(folder.glob("sweep/*/wandb/offline-run-*")):
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
        lines = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.splitlines()
        (start,) = (record["run"] for record in map(json.loads, lines) if record["type"] == "run")
        found.append((start["run_id"], start["run_group"]))
    assert len(found) == 3 and len({name for name, _ in found}) == 2
    assert len({group for _, group in found}) == 1


SPREAD = """
from dataclasses import replace

import jax.numpy as jnp
from mine import shrinkage


def task():
    return replace(shrinkage(), prior=lambda hparams: jnp.sqrt(hparams**2))
"""


@pytest.mark.slow
def test_a_run_without_a_usable_step_fails_with_one_sentence(bilevel, folder):
    """The prior has no derivative at the start, and skipping the step changes nothing about that."""
    (folder / "spread.py").write_text(SPREAD)
    arguments = ("task._target_=spread.task", "engine.on_failure=skip", "trainer.steps=3", "hydra.run.dir=run")
    finished = bilevel(*arguments)
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("bilevel: None of 3 outer steps could be used. The derivative of the prior"), finished.stderr
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps_skipped"]) == ("failed", 3)
