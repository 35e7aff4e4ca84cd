"""The training loop: it is the optimiser on the hypergradient, a line for each step, and one end for every record."""

import functools
import pickle
from contextlib import ExitStack
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bilevel as bl
from bilevel.foundation import trees
from bilevel.loggers import read_json_lines
from bilevel.training.fit import Fit, Interrupted

RATE, STEPS = 0.5, 4


def inner_loss(w, h, batch):
    term = lambda w, h: 0.5 * jnp.sum((w - batch) ** 2) + 0.5 * jnp.sum(jnp.exp(h) * w**2)
    return trees.total(jax.tree.map(term, w, h))


def outer_loss(w, h, batch):
    return trees.total(jax.tree.map(lambda leaf: 0.5 * jnp.sum((leaf - batch) ** 2), w))


def start(key=None):
    return {"one": jnp.zeros(()), "two": jnp.array([0.5, -0.5])}


@functools.cache
def task(precision="float64"):
    """w = batch / (1 + e^h) in each of two leaves, with the outer loss |w - 1|^2 / 2."""
    inner = bl.InnerProblem(inner_loss, lambda key, h: jax.tree.map(jnp.zeros_like, h))
    return bl.Task(inner, outer_loss, start, bl.full_batch(4.0, 1.0), precision=precision)


def closed_form(h):
    w = 4 / (1 + np.exp(h))
    return 0.5 * np.sum((w - 1) ** 2), -(w - 1) * w * np.exp(h) / (1 + np.exp(h))


def trainer(**more):
    return bl.Trainer(**{"optimizer": optax.sgd(RATE), "steps": STEPS, "engine": bl.Implicit(), **more})


class Witness(bl.loggers.Logger):
    """Keeps what it was told, and interrupts at a step if it is asked to."""

    def __init__(self, interrupt=-1):
        self.told, self.parts, self.interrupt = [], [], interrupt

    def start(self, run, step=0, state=None):
        self.told.append(("start", step))

    def log(self, step, metrics):
        self.told.append(("log", step))
        if step == self.interrupt:
            raise KeyboardInterrupt

    def figure(self, name, figure):
        pass

    def within(self, what, done, total):
        self.parts.append((what, done, total))

    def finish(self, summary):
        self.told.append(("finish", summary["status"]))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_it_is_the_optimiser_on_the_hypergradient(precision):
    result = trainer().fit(task(precision), key=jax.random.key(0))
    h, tolerance = np.array([0.0, 0.5, -0.5]), 1e-9 if precision == "float64" else 1e-4
    for line in result.metrics:
        loss, gradient = closed_form(h)
        assert_allclose(line["outer/loss"], loss, rtol=tolerance)
        assert_allclose(line["outer/grad_norm"], np.linalg.norm(gradient), rtol=tolerance)
        assert_allclose(line["outer/step_norm"], RATE * np.linalg.norm(gradient), rtol=tolerance)
        h = h - RATE * gradient
    found = np.concatenate([np.atleast_1d(result.last_hparams[name]) for name in ("one", "two")])
    assert found.dtype == precision
    assert_allclose(found, h, rtol=tolerance)


def test_every_logger_hears_each_step_once_and_one_end():
    witnesses = [Witness(), Witness()]
    result = trainer(loggers=witnesses).fit(task(), key=jax.random.key(0))
    expected = [("start", 0), *(("log", step) for step in range(STEPS)), ("finish", "completed")]
    assert [witness.told for witness in witnesses] == [expected, expected]
    assert [line["step"] for line in result.metrics] == list(range(STEPS))


@pytest.mark.slow
def test_loggers_hear_how_far_baselines_and_figures_are():
    witness = Witness()
    compared = lambda: {"baseline_loss": max(bl.loggers.followed([1.0, 3.0], "penalties"))}
    trainer(loggers=[witness], steps=1).fit(replace(task(), baselines=compared), key=jax.random.key(0))
    heard = witness.parts
    assert heard[:3] == [("penalties", 0, 2), ("penalties", 1, 2), ("penalties", 2, 2)]
    assert heard[3] == ("figures", 0, 2) and heard[-1] == ("figures", 2, 2)
    assert list(bl.loggers.followed([4, 5], "things")) == [4, 5]  # where nobody listens


def test_an_interrupted_run_ends_each_record_and_goes_on_where_it_was(tmp_path):
    first, other = Witness(interrupt=1), Witness()
    with pytest.raises(Interrupted):
        trainer(loggers=[other, first]).fit(task(), key=jax.random.key(0), directory=tmp_path)
    assert first.told[-1] == other.told[-1] == ("finish", "interrupted")
    assert (tmp_path / "result.npz").exists()
    again = Witness()
    resumed = trainer(loggers=[again]).fit(task(), key=jax.random.key(0), directory=tmp_path, resume=True)
    whole = trainer().fit(task(), key=jax.random.key(0))
    steps = [step for what, step in again.told if what == "log"]
    assert again.told[0] == ("start", steps[0]) and steps == list(range(steps[0], STEPS))
    jax.tree.map(assert_array_equal, resumed.last_hparams, whole.last_hparams)


@pytest.mark.parametrize("moment", ["compiling", "the first line"])
def test_a_run_that_is_interrupted_before_its_first_step_ends_goes_on(tmp_path, monkeypatch, moment):
    stopped = {"loggers": [Witness(interrupt=0)]} if moment == "the first line" else {}
    with monkeypatch.context() as changed:
        if moment == "compiling":
            changed.setattr(Fit, "attempt", interrupted)
        with pytest.raises(Interrupted, match="interrupted after 0 outer steps of 4") as interrupt:
            trainer(**stopped).fit(task(), key=jax.random.key(0), directory=tmp_path)
    assert interrupt.value.result.metrics == []
    sent = pickle.loads(pickle.dumps(interrupt.value))
    assert str(sent) == str(interrupt.value) and sent.result.summary == interrupt.value.result.summary
    resumed = trainer().fit(task(), key=jax.random.key(0), directory=tmp_path, resume=True)
    jax.tree.map(assert_array_equal, resumed.last_hparams, whole_run().last_hparams)
    assert [line["step"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == list(range(STEPS))


def interrupted(*arguments):
    raise KeyboardInterrupt


@functools.cache
def whole_run():
    return trainer().fit(task(), key=jax.random.key(0))


def test_an_interrupted_run_has_the_figures_of_its_steps(tmp_path):
    """Those of a run of so many steps, without a look at the hyperparameters behind the last one."""
    measured = lambda w, h: {"test/loss": jnp.sum(w["two"])}
    stated = replace(task(), evaluate=measured, headline=bl.Headline("absent", "figure"))
    with pytest.raises(Interrupted, match="interrupted after 2 outer steps of 4") as interrupt:
        trainer(loggers=[Witness(interrupt=2)]).fit(stated, key=jax.random.key(0), directory=tmp_path)
    found, whole = interrupt.value.result, trainer(steps=2).fit(stated, key=jax.random.key(0))
    assert [line["outer/loss"] for line in found.metrics] == [line["outer/loss"] for line in whole.metrics]
    best = min(found.metrics, key=lambda line: line["outer/loss"])
    told = found.summary
    assert (told["steps"], told["status"], told["best_step"]) == (2, "interrupted", best["step"])
    assert (told["chosen_by"], told["best_outer_loss"]) == ("outer/loss", best["outer/loss"])
    assert told["headline"]["metric"] == "test/loss" and told["test_loss"] == best["test/loss"]
    assert told["last_hparams"] == whole.summary["last_hparams"]
    assert told["counts"] == {name: sum(line[f"counts/{name}"] for line in found.metrics) for name in told["counts"]}
    with np.load(tmp_path / "result.npz") as kept:
        assert_array_equal(kept["hparams['two']"], found.hparams["two"])


def test_a_failed_run_ends_each_record_with_its_last_line():
    inner = bl.InnerProblem(
        lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
        lambda key, h: jnp.zeros(()),
        solver=bl.GradientDescent(step_size=0.1, max_steps=2),
    )
    failing = bl.Task(inner, lambda w, h, batch: 0.5 * (w - batch) ** 2, lambda key: 0.0, bl.full_batch(4.0, 1.0))
    witness = Witness()
    with pytest.raises(bl.ConvergenceError, match="Outer step 0"):
        trainer(loggers=[witness]).fit(failing, key=jax.random.key(0))
    assert witness.told == [("start", 0), ("finish", "failed")]


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["checkpoints", pytest.param("nothing", marks=pytest.mark.slow)])
def test_a_state_in_the_middle_is_reached_again(tmp_path, kept):
    """From the checkpoint before it, or from the start where there is none."""
    settings = trainer(checkpoint_every=2)
    result = settings.fit(task(), key=jax.random.key(0), directory=tmp_path)
    with ExitStack() as stack:
        fit = Fit(settings, task(), jax.random.key(0), None, stack)
        state = fit.reach(3, tmp_path if kept == "checkpoints" else tmp_path / "elsewhere")
    h = np.array([0.0, 0.5, -0.5])
    for _ in range(3):
        h = h - RATE * closed_form(h)[1]
    assert int(state.step) == 3
    assert_allclose(jnp.concatenate([jnp.atleast_1d(state.hparams[name]) for name in ("one", "two")]), h, rtol=1e-9)
    assert_allclose(result.metrics[3]["outer/loss"], closed_form(h)[0], rtol=1e-9)


def test_its_gradient_is_the_one_that_users_get():
    """Training and `bl.hypergradient` walk one path: the same numbers at the same hyperparameters."""
    result = trainer(steps=1).fit(task(), key=jax.random.key(0))
    value, gradient, report = bl.hypergradient(task(), start(), bl.Implicit(), key=jax.random.key(0))
    line = result.metrics[0]
    assert line["outer/loss"] == pytest.approx(float(value), rel=1e-12)
    assert line["error_estimate"] == pytest.approx(float(report.error_estimate), rel=1e-3)
    assert (line["inner/steps"], line["adjoint/steps"]) == (int(report.inner_steps), int(report.adjoint_steps))
    moved = jax.tree.map(lambda leaf, slope: leaf - RATE * slope, start(), gradient)
    jax.tree.map(lambda one, other: assert_allclose(one, other, rtol=1e-12), moved, result.last_hparams)
