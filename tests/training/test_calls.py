"""Several outer steps in one call give the record, the result and the checkpoints of one step a call."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.loggers import read_json_lines
from bilevel.training.checkpoint import Pace

# Two programs do not share their rounding: a count may differ by one product, figures of its size by all.
COMPARED = ("outer/", "hparams", "inner/status", "inner/zeros", "adjoint/status", "engine/skipped", "error_grade")


def task(border: float = -jnp.inf):
    """Ridge with one penalty; beyond ``border`` the inner problem is undefined."""
    x = np.random.default_rng(0).normal(size=(30, 4))
    y = x @ np.ones(4) + 0.5

    def loss(w, h, batch):
        penalty = jnp.where(h > border, jnp.exp(h), jnp.nan)
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2) + 0.5 * penalty * w @ w

    return bl.Task(
        inner=bl.InnerProblem(loss=loss, init=lambda key, h: jnp.zeros(4)),
        outer_loss=lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
        init_hparams=lambda key: jnp.array(1.0),
        batches=bl.full_batch((x[:20], y[:20]), (x[20:], y[20:])),
    )


def same(one, many):
    assert len(one.metrics) == len(many.metrics)
    for before, after in zip(one.metrics, many.metrics, strict=True):
        assert before.keys() == after.keys()
        for name in (name for name in before if name.startswith(COMPARED)):
            if isinstance(before[name], str):
                assert before[name] == after[name]
            else:
                np.testing.assert_allclose(after[name], before[name], rtol=1e-8, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(many.hparams, one.hparams, rtol=1e-10)


def fitted(steps_per_call, directory=None, engine=None, stated=None, **settings):
    chosen: dict[str, Any] = {"steps": 11, "checkpoint_every": 4, **settings}
    trainer = bl.Trainer(
        optimizer=optax.adam(0.2), engine=engine or bl.Implicit(), steps_per_call=steps_per_call, **chosen
    )
    return trainer.fit(stated or task(), directory=directory)


def test_the_record_is_that_of_one_step_a_call(tmp_path):
    one, many = fitted(1, tmp_path / "one"), fitted(3, tmp_path / "many")
    same(one, many)
    assert [line["step"] for line in read_json_lines(tmp_path / "many/metrics.jsonl")] == list(range(11))
    kept = lambda name: sorted(path.name for path in (tmp_path / name / "checkpoints").iterdir())
    assert kept("one") == kept("many")


@pytest.mark.slow
def test_patience_and_callbacks_end_the_run_at_their_step():
    seen = []

    def at_fifth(moment):
        seen.append((moment.step, float(jnp.sum(moment.params)), float(moment.hparams)))
        return jnp.bool_(moment.step == 4)  # the answer of a comparison of arrays

    one = fitted(1, callbacks=[at_fifth])
    first = seen.copy()
    seen.clear()
    many = fitted(4, callbacks=[at_fifth])
    assert [step for step, *_ in seen] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(seen, first, rtol=1e-8)
    same(one, many)
    assert many.summary["status"] == "stopped_by_callback"
    rising: dict[str, Any] = {"steps": 200, "patience": 3, "optimizer": optax.adam(1.0)}
    one, many = (bl.Trainer(steps_per_call=number, **rising).fit(task()) for number in (1, 7))
    same(one, many)
    assert many.summary["status"] == one.summary["status"] == "stopped_early"


@pytest.mark.sample(1)
@pytest.mark.parametrize("policy", ["skip", "warn"])
def test_a_step_that_fails_is_left_to_the_host(policy, recwarn):
    stated = task(border=0.5)
    engine = bl.Implicit(on_failure=policy)
    one, many = (fitted(number, engine=engine, stated=stated) for number in (1, 5))
    same(one, many)
    assert many.summary["steps_shortened"] == one.summary["steps_shortened"]
    met = [line for line in many.metrics if line["outer/halvings"] or "converged" != line["inner/status"]]
    assert met, "the border was never met"


@pytest.mark.slow
def test_a_resumed_run_is_the_whole_one(tmp_path):
    whole = fitted(4, tmp_path / "whole")
    fitted(4, tmp_path / "part", steps=6)
    trainer = bl.Trainer(optimizer=optax.adam(0.2), steps=11, checkpoint_every=4, steps_per_call=4)
    again = trainer.fit(task(), directory=tmp_path / "part", resume=True)
    assert len(again.metrics) == 11
    same(whole, again)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="steps_per_call=0: a call takes"):
        bl.Trainer(steps_per_call=0)
    with pytest.raises(TypeError, match="steps_per_call"):
        bl.Trainer(steps_per_call=cast(int, 1.5))


@pytest.mark.slow
def test_the_program_is_compiled_once_whatever_the_length_of_a_call():
    from contextlib import ExitStack

    from bilevel.training.fit import Fit

    with jax.enable_x64(True), ExitStack() as stack:
        fit = Fit(bl.Trainer(steps=10, steps_per_call=4), task(), jax.random.key(0), None, stack)
        fit.run(False, {})
    assert fit.advance_many.traces == 1


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_checkpoints_by_time_are_those_that_are_due_and_the_last_one(steps_per_call, tmp_path, monkeypatch):
    asked = iter([True, *[False] * 20])
    monkeypatch.setattr(Pace, "due", lambda self: next(asked))
    fitted(steps_per_call, tmp_path, checkpoint_every=None)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [steps_per_call, 11]


def test_a_run_with_checkpoints_by_time_goes_on(tmp_path):
    whole = fitted(1, tmp_path / "whole", checkpoint_every=None)
    fitted(1, tmp_path / "part", checkpoint_every=None, steps=6)
    trainer = bl.Trainer(optimizer=optax.adam(0.2), steps=11)
    same(whole, trainer.fit(task(), directory=tmp_path / "part", resume=True))
