"""The outer loop: it descends, keeps the best, stops early, resumes bit for bit, and says how it ended."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl


def quadratic(**more):
    """w*(h) = 4 / (1 + e^h), to be 1 for the outer loss: e^h = 3."""
    statement = {
        "inner": bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2, init=lambda key, h: jnp.zeros(())
        ),
        "outer_loss": lambda w, h, batch: 0.5 * (w - batch) ** 2,
        "init_hparams": lambda key: jnp.zeros(()),
        "batches": bl.full_batch(4.0, 1.0),
        "evaluate": lambda w, h: {"test/distance": jnp.abs(w - 1.0)},
    }
    return bl.Task(**{**statement, **more})


def trainer(**more):
    return bl.Trainer(**{"optimizer": optax.adam(0.1), "steps": 60, **more})


def record(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in lines]


def test_it_finds_the_optimum_and_summarises_the_run():
    result = trainer(steps=150).fit(quadratic(), key=jax.random.key(0))
    np.testing.assert_allclose(jnp.exp(result.hparams), 3.0, rtol=1e-2)
    np.testing.assert_allclose(result.params, 1.0, rtol=1e-2)
    summary = result.summary
    assert summary["status"] == "completed"
    assert summary["initial_outer_loss"] == pytest.approx(0.5)
    assert summary["best_outer_loss"] == min(line["outer/loss"] for line in result.metrics)
    assert summary["test_distance"] == pytest.approx(float(jnp.abs(result.params - 1.0)))
    wanted = (
        "task engine status steps initial_outer_loss final_outer_loss best_outer_loss seconds_total seconds_per_step"
    )
    assert set(wanted.split()) | {"hypergradient_error_estimate", "counts"} <= set(summary)


def test_the_record_has_one_line_a_step(tmp_path):
    trainer(steps=5).fit(quadratic(), key=jax.random.key(0), directory=tmp_path)
    lines = record(tmp_path)
    assert [line["step"] for line in lines] == list(range(5))
    wanted = "outer/loss outer/grad_norm inner/residual inner/steps adjoint/residual adjoint/steps error_estimate"
    assert set(wanted.split()) <= set(lines[0])


@pytest.mark.slow
def test_the_record_says_what_compiling_took():
    """The parts of the first line and what the first state took make up the summary; later steps compile nothing."""
    result = trainer(steps=3).fit(quadratic(), key=jax.random.key(0))
    for part in ("seconds_tracing", "seconds_lowering", "seconds_compiling"):
        first, *later = (line[part] for line in result.metrics)
        assert 0 < first <= result.summary[part] and later == [0, 0]


@pytest.mark.slow
def test_resuming_gives_the_record_of_an_uninterrupted_run(tmp_path):
    whole = trainer(steps=12).fit(quadratic(), key=jax.random.key(0), directory=tmp_path / "whole")
    trainer(steps=5).fit(quadratic(), key=jax.random.key(0), directory=tmp_path / "parts")
    parts = trainer(steps=12).fit(quadratic(), key=jax.random.key(0), directory=tmp_path / "parts", resume=True)
    assert record(tmp_path / "whole") == record(tmp_path / "parts")
    assert float(whole.hparams) == float(parts.hparams)
    assert whole.summary["counts"] == parts.summary["counts"]


def test_the_outer_step_is_traced_once():
    calls = []

    def counted(w, h, batch):
        calls.append(1)
        return 0.5 * (w - batch) ** 2

    trainer(steps=1).fit(quadratic(outer_loss=counted), key=jax.random.key(0))
    once = len(calls)
    calls.clear()
    trainer(steps=7).fit(quadratic(outer_loss=counted), key=jax.random.key(0))
    assert len(calls) == once


@pytest.mark.slow
def test_patience_stops_on_the_second_hold_out_and_the_best_iterate_is_kept():
    task = quadratic(evaluate=lambda w, h: {"stop/loss": (h - 0.5) ** 2})
    result = trainer(steps=100, patience=5).fit(task, key=jax.random.key(0))
    assert result.summary["status"] == "stopped_early"
    assert result.summary["steps"] < 30
    assert abs(float(result.hparams) - 0.5) < 0.1 < float(result.last_hparams) - 0.5 + 0.1
    assert result.summary["stop_loss"] == pytest.approx((float(result.hparams) - 0.5) ** 2)


@pytest.mark.slow
def test_the_hyperparameters_stay_feasible():
    task = quadratic(feasible=lambda h: jnp.minimum(h, 0.3))
    assert float(trainer().fit(task, key=jax.random.key(0)).last_hparams) == pytest.approx(0.3)


class TestFailures:
    def failing(self, max_steps=2):
        inner = bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * (w - batch) ** 2 + 0.5 * jnp.exp(h) * w**2,
            init=lambda key, h: jnp.zeros(()),
            solver=bl.GradientDescent(step_size=0.3, max_steps=max_steps),
        )
        return quadratic(inner=inner, warm_start=False)

    def test_raise_names_the_step(self):
        with pytest.raises(bl.ConvergenceError, match="Outer step 0: The inner solve ended with status max_steps"):
            trainer(steps=3).fit(self.failing(), key=jax.random.key(0))

    def test_a_skipped_step_changes_nothing_and_is_counted(self):
        result = trainer(steps=3, engine=bl.Implicit(on_failure="skip")).fit(self.failing(), key=jax.random.key(0))
        assert result.summary["steps_skipped"] == 3
        assert float(result.last_hparams) == 0.0

    @pytest.mark.slow
    def test_warn_says_it_and_goes_on(self):
        with pytest.warns(UserWarning, match="max_steps"):
            result = trainer(steps=3, engine=bl.Implicit(on_failure="warn")).fit(self.failing(), key=jax.random.key(0))
        assert result.summary["steps_skipped"] == 0
        assert float(result.last_hparams) > 0.0

    @pytest.mark.slow
    def test_retry_takes_more_steps(self):
        result = trainer(steps=2, engine=bl.Implicit(on_failure="retry")).fit(self.failing(5), key=jax.random.key(0))
        assert result.summary["steps_skipped"] == 0
        assert float(result.last_hparams) > 0.0


@pytest.mark.slow
def test_ctrl_c_saves_and_says_where(tmp_path):
    steps = []

    class Stop(bl.loggers.Logger):
        def start(self, run, step=0, state=None): ...
        def figure(self, name, figure): ...
        def finish(self, summary):
            steps.append(summary["status"])

        def log(self, step, metrics):
            if step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="interrupted after 3 outer steps"):
        trainer(steps=10, loggers=(Stop(),)).fit(quadratic(), key=jax.random.key(0), directory=tmp_path)
    assert steps == ["interrupted"]
    trainer(steps=10).fit(quadratic(), key=jax.random.key(0), directory=tmp_path, resume=True)
    trainer(steps=10).fit(quadratic(), key=jax.random.key(0), directory=tmp_path / "whole")
    assert record(tmp_path) == record(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "message"), [({"steps": 0}, "at least one step"), ({"checkpoint_every": 0}, "every 1, 2")]
)
def test_nonsense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        bl.Trainer(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, r"trainer\.optimizer='adam': an optax\.GradientTransformation, .* is needed"),
        ({"engine": bl.Implicit}, r"trainer\.engine=.*: an engine, as bl\.Implicit\(\), is needed"),
        ({"steps": 2.5}, r"trainer\.steps=2\.5: a whole number is needed"),
        ({"loggers": ["wandb"]}, r"trainer\.loggers: 'wandb' is no bl\.loggers\.Logger"),
    ],
)
def test_what_is_of_another_kind_is_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        bl.Trainer(**settings)


def test_a_fit_takes_a_task_a_key_and_a_finite_start():
    with pytest.raises(TypeError, match=r"takes a bl\.Task, and was given a function"):
        trainer().fit(lambda: quadratic())  # type: ignore[arg-type]  # what is refused
    with pytest.raises(TypeError, match=r"key=0: a key of JAX is needed"):
        trainer().fit(quadratic(), key=0)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ValueError, match=r"hparams of init_hparams\(key\) is NaN or infinite"):
        trainer(engine=bl.OneStep()).fit(quadratic(init_hparams=lambda key: jnp.array(jnp.nan)))
