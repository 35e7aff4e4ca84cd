"""Runs in folders: settings that a refused command leaves alone, preferences of tasks, forks, folders of strangers."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml

from bilevel.loggers import read_json_lines

MINE = ("task._target_=mine.shrinkage", "progress=false")
OWN = """
import optax


def with_schedule(rate):
    return optax.chain(optax.clip(1.0), optax.sgd(rate))
"""


@pytest.fixture
def run(bilevel, folder):
    """In a folder whose name looks like a setting."""
    done = bilevel(*MINE, "task.features=4", "trainer.steps=3", "hydra.run.dir='lr=0.1'")
    assert done.returncode == 0, done.stderr
    return folder / "lr=0.1"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}


def refused(done, *words):
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line


@pytest.mark.slow
def test_refused_commands_leave_a_run_as_it_is(bilevel, run):
    """Another start in its folder, other data, another optimiser, code in its settings."""
    before = contents(run)
    place = "hydra.run.dir='lr=0.1'"
    refused(bilevel(*MINE, "optimizer.learning_rate=0.7", place), "holds a run already", "choose another folder")
    refused(bilevel(r"resume='lr=0.1'", "task.features=6"), "task.features=6", "cannot change", "fork=DIR")
    refused(bilevel(r"resume='lr=0.1'", "optimizer._target_=optax.sgd"), "was written by another task")
    assert contents(run) == before

    done = bilevel("command=doctor", "lr=0.1")
    assert done.returncode == 0, done.stderr
    assert "Nothing that went wrong is on record" in done.stdout
    assert contents(run) == before

    settings = run / ".hydra/config.yaml"
    own = settings.read_text()
    settings.write_text(own + "hydra:\n  launcher:\n    _target_: mine.broken\n")
    for command in ((r"resume='lr=0.1'",), ("command=doctor", "lr=0.1")):
        refused(bilevel(*command), "node 'hydra'", "run code")
    settings.write_text(own)
    done = bilevel(r"resume='lr=0.1'", "trainer.steps=5", "logger=wandb")
    assert done.returncode == 0, done.stderr
    assert len(read_json_lines(run / "metrics.jsonl")) == 5
    assert (run / "wandb").is_dir()
    assert yaml.safe_load(settings.read_text())["logger"]["_target_"] == "bilevel.loggers.WandB"
    assert "logger=wandb" in yaml.safe_load((run / ".hydra/overrides.yaml").read_text())


@pytest.mark.slow
def test_a_fork_starts_from_the_hyperparameters_found(bilevel, run, folder):
    done = bilevel("fork='lr=0.1'", "trainer.steps=2", "optimizer=sgd", "hydra.run.dir=forked")
    assert done.returncode == 0, done.stderr
    assert "optax.sgd" in (folder / "forked/.hydra/config.yaml").read_text()
    with np.load(run / "result.npz") as found:
        start = float(found["hparams"])
    lines = read_json_lines(folder / "forked/metrics.jsonl")
    assert len(lines) == 2
    at_best = [*read_json_lines(run / "metrics.jsonl"), json.loads((run / "summary.json").read_text())]
    losses = [line.get("outer/loss", line.get("final_outer_loss")) for line in at_best]
    assert np.isfinite(start)
    assert min(abs(loss - lines[0]["outer/loss"]) for loss in losses) < 1e-8

    for part in ("checkpoints", "metrics.jsonl"):  # as if it had been killed before its first checkpoint
        (folder / "forked" / part).rename(folder / part)
    done = bilevel("resume=forked", "trainer.steps=1")
    assert done.returncode == 0, done.stderr
    assert read_json_lines(folder / "forked/metrics.jsonl")[0]["outer/loss"] == lines[0]["outer/loss"]

    (run / "result.npz").write_bytes(b"PK torn")
    refused(bilevel("fork='lr=0.1'"), "its result.npz is damaged")


@pytest.mark.slow
def test_an_optimizer_of_ones_own_keeps_its_rate_and_a_seed_reaches_the_task(bilevel, folder):
    (folder / "settings/optimizer").mkdir(parents=True)
    (folder / "settings/optimizer/slow.yaml").write_text("_target_: optax.sgd\nlearning_rate: 0.001\n")
    (folder / "settings/optimizer/chained.yaml").write_text(
        "_target_: optax.chain\n_args_:\n  - {_target_: optax.clip, max_delta: 1.0}\n"
        "  - _target_: optax.sgd\n    learning_rate:\n"
        "      {_target_: optax.cosine_decay_schedule, init_value: 0.2, decay_steps: 10}\n"
    )
    (folder / "mine.py").write_text(
        (folder / "mine.py").read_text() + "\n\ndef seeded(seed: int = 0):\n    return shrinkage(features=3 + seed)\n"
    )
    common = ("--config-dir=settings", "task=hyperclean")
    for choice, rate in (("slow", 0.001), ("adam", 0.3)):
        done = bilevel(*common, f"optimizer={choice}", "--cfg", "job", "--resolve")
        assert yaml.safe_load(done.stdout)["optimizer"]["learning_rate"] == rate
    done = bilevel(*MINE, "--config-dir=settings", "optimizer=chained", "trainer.steps=2", "hydra.run.dir=chained")
    assert done.returncode == 0, done.stderr
    done = bilevel("task._target_=mine.seeded", "seed=2", "trainer.steps=1", "progress=false", "hydra.run.dir=seeded")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "seeded/summary.json").read_text())["unknowns"] == 5


@pytest.mark.slow
def test_two_starts_in_the_same_second_get_two_folders(bilevel, folder):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: bilevel(*MINE, "trainer.steps=2"), range(2)))
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    runs = {folder / done.stdout.strip() for done in both}
    assert len(runs) == 2
    assert all([line["step"] for line in read_json_lines(run / "metrics.jsonl")] == [0, 1] for run in runs)


WRONG = {
    "trainer=[]": "trainer",
    "hydra.verbose=-inf": "hydra.verbose",
    "seed=${oc.env:NOPE}": "Environment variable 'NOPE' not found",
    "solver.tol=-1 solver=newton": "solver.tol",
    "hydra.run.dir='run[1]'": "run[1]",
    "task.train=10": "of the 10 classes occur",
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("argument", WRONG)
def test_a_wrong_setting_is_one_sentence_and_leaves_nothing(bilevel, folder, argument):
    before = sorted(path.name for path in folder.iterdir())
    done = bilevel(*argument.split())
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert WRONG[argument] in line and "Traceback" not in line
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_home_is_not_needed(bilevel):
    done = bilevel("trainer.steps=many", HOME="")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
