"""``bilevel command=doctor RUN``: each cause is provoked, named, and cured by the very command that it prints."""

import json
import re
import shlex

import pytest

from bilevel.cli.arguments import translate
from bilevel.cli.doctor import command
from bilevel.cli.sentences import SettingsError
from bilevel.loggers import read_json_lines
from bilevel.report.commands import overrides_of

TROUBLE = '''
import jax
import jax.numpy as jnp
import numpy as np

import bilevel as bl


def saddle():
    """The root of a system with eigenvalues of both signs."""
    scales = jnp.array([1.0, -2.0, 3.0])
    inner = bl.InnerProblem.from_residual(
        lambda w, h, batch: scales * (w - 1.0) + jnp.exp(h) * w, init=lambda key, h: jnp.zeros(3)
    )
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - 0.5) ** 2),
        init_hparams=lambda key: jnp.array(-2.0),
        batches=bl.full_batch(None, None),
    )


def linear(*, stop: int = 0, validation: int = 12, features: int = 39, sparse: bool = False):
    """A linear regression judged on few samples, with a penalty for each of many features, or one that selects."""
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(40 + validation + 200, features)), np.zeros(features)
    truth[:3] = 1.0
    y = x @ truth + 2.0 * rng.normal(size=len(x))
    ends = (0, 40, 40 + validation - stop, 40 + validation, len(x))
    train, judge, second, test = ((x[a:b], y[a:b]) for a, b in zip(ends[:-1], ends[1:]))

    def error(w, batch):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    def ridge(w, h, batch):
        return error(w, batch) + 0.5 * jnp.sum(jnp.exp(h) * w**2)

    def evaluate(w, h):
        return {"test/loss": error(w, test), **({"stop/loss": error(w, second)} if stop else {})}

    init = lambda key, h: jnp.zeros(features)
    if sparse:
        inner = bl.InnerProblem(loss=lambda w, h, batch: error(w, batch), init=init, penalty=bl.L1(weight=jnp.exp))
    else:
        inner = bl.InnerProblem(loss=ridge, init=init)
    return bl.Task(
        inner=inner,
        outer_loss=lambda w, h, batch: error(w, batch),
        init_hparams=lambda key: jnp.array(-2.0) if sparse else jnp.zeros(features),
        batches=bl.full_batch(train, judge),
        evaluate=evaluate,
    )


def collinear(*, precision: str = "float64"):
    """Two features that differ by a thousandth, and a target that is their difference: the condition number is 1e6."""
    rng = np.random.default_rng(0)
    noise, first = rng.normal(size=60), rng.normal(size=60)
    x = np.stack([first, first + 1e-3 * noise], axis=1).astype(precision)
    y = (first + noise + 0.1 * rng.normal(size=60)).astype(precision)

    def error(w, h, batch):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: error(w, h, batch) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(2, x.dtype),
        ),
        outer_loss=error,
        init_hparams=lambda key: jnp.array(-14.0, x.dtype),
        batches=bl.full_batch((x[:40], y[:40]), (x[40:], y[40:])),
        precision=precision,
    )
'''

LINEAR = "task._target_=trouble.linear"
DESCENT = (LINEAR, "solver=gradient_descent", "solver.tol=1e-6")
CAUSES = {
    "indefinite Hessian": ("task._target_=trouble.saddle", "engine=implicit_cg"),
    "stalled adjoint": (LINEAR, "engine=implicit_cg", "engine.linear_solve.max_steps=2"),
    "face that keeps changing": (LINEAR, "task.sparse=true", "solver=proximal_gradient", "solver.tol=1e-2"),
    "float32 too coarse": ("task._target_=trouble.collinear", "task.precision=float32"),
    "too few inner steps": (*DESCENT, "solver.max_steps=5"),
    "validation overfitted": (LINEAR, "task.stop=0", "task.validation=12", "trainer.steps=30"),
    "bias of unknown size": (*DESCENT, "engine=one_step"),
}


@pytest.fixture
def doctored(bilevel, folder):
    """Runs a command line, and gives its exit code, its summary and what the doctor says of it."""
    (folder / "trouble.py").write_text(TROUBLE)

    def run(words, name, *more):
        steps = () if any(word.startswith("trainer.steps") for word in words) else ("trainer.steps=3",)
        done = bilevel(*words, *steps, "progress=false", f"hydra.run.dir={name}", PYTHONWARNINGS="ignore")
        told = bilevel("command=doctor", name, *more, PYTHONWARNINGS="ignore")
        assert told.returncode == 0, told.stderr
        return done.returncode, json.loads((folder / name / "summary.json").read_text()), told.stdout

    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named_and_the_command_that_is_printed_cures_it(doctored, cause):
    _, _, told = doctored(CAUSES[cause], "ill")
    assert f". {cause}: " in told, told
    after = told[told.index(f". {cause}: ") :]
    (line, *_) = re.findall(r"^   bilevel (.*)$", after, re.MULTILINE)
    code, summary, told = doctored(shlex.split(line), "well")
    assert code == 0
    assert summary["status"] in ("completed", "stopped_early")
    assert f". {cause}: " not in told, told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_step_is_taken_again_with_scrutiny(doctored, folder):
    words = (*DESCENT, "solver.tol=1e-2", "trainer.steps=12", "trainer.checkpoint_every=5")
    _, _, told = doctored(words, "ill", "replay=11")  # a checkpoint is before step 10: one step is made on the way
    line = read_json_lines(folder / "ill" / "metrics.jsonl")[11]
    scrutiny = told[told.index("step 11:") :]
    assert f"inner converged after {line['inner/steps']} steps (residual {line['inner/residual']:.1e})" in scrutiny
    assert f"error {line['error_estimate']:.1e} ({line['error_grade']})" in scrutiny
    assert "symmetric and positive: 39 unknowns" in scrutiny
    measured = float(re.findall(r"differs from it by (\S+)", scrutiny)[0]) * line["outer/grad_norm"]
    assert 0.5 * line["error_estimate"] < measured < 1.5 * line["error_estimate"]


def test_the_command_replaces_what_it_changes():
    given = ["task=ridge", "engine=implicit_cg", "engine.linear_solve.tol=1e-3", "solver.tol=1e-2"]
    assert command(given, ["engine=implicit_dense"]) == "bilevel task=ridge solver.tol=1e-2 engine=implicit_dense"
    assert command(given, ["solver=auto", "solver.tol=1e-9"]).endswith("tol=1e-3 solver=auto solver.tol=1e-9")


def test_the_command_names_the_folder_of_the_users_settings(tmp_path, monkeypatch):
    place, mine = tmp_path / "run" / ".hydra", tmp_path / "settings"
    place.mkdir(parents=True)
    (place / "overrides.yaml").write_text("- task=mine\n")
    sources = [{"path": "hydra.conf", "provider": "hydra"}, {"path": str(mine), "provider": "command-line"}]
    (place / "hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"config_sources": sources}}}))
    assert overrides_of(place.parent) == [f"--config-dir={mine}", "task=mine"]
    monkeypatch.chdir(tmp_path)
    assert command(overrides_of(place.parent), ["seed=1"]) == "bilevel --config-dir=settings task=mine seed=1"


def test_the_directory_may_be_a_word_or_a_setting(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: 1\n")
    for words in ([str(tmp_path)], [f"run={tmp_path}"]):
        arguments = translate(["command=doctor", *words, "replay=3"])
        assert f"--config-path={tmp_path}/.hydra" in arguments
        assert f"++run='{tmp_path}'" in arguments
        assert {"command=doctor", "++replay=3", "hydra.run.dir=."} <= set(arguments)
        assert str(tmp_path) not in arguments


@pytest.mark.parametrize(
    ("words", "sentence"),
    [([], "needs the directory of a run"), (["nowhere"], "run=nowhere: no run is recorded there")],
)
def test_a_run_is_needed(words, sentence):
    with pytest.raises(SettingsError, match=sentence):
        translate(["command=doctor", *words])
