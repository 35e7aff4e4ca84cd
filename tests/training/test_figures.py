"""The standard pictures show what the record holds, and a picture that fails costs nothing."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from bilevel.loggers import JsonLines, Run
from bilevel.training.figures import figures, hyperparameters, keep_figure, training
from bilevel.training.result import Result

TASK: Any = SimpleNamespace(figures={})


def result_of(hparams, metrics=None, steps=5):
    lines = [
        {
            "step": step,
            "outer/loss": 1.0 / (step + 1),
            "outer/grad_norm": 0.1,
            "error_estimate": 1e-9,
            **(metrics or {}),
        }
        for step in range(steps)
    ]
    return Result(hparams, jnp.zeros(2), hparams, jnp.zeros(2), lines, {"best_step": steps - 1})


@pytest.mark.slow
def test_the_curves_are_those_of_the_record():
    result = result_of(jnp.zeros(3), {"test/loss": 0.5})
    left, right = training(result).axes
    curves = {line.get_label(): np.asarray(line.get_ydata(), float) for line in left.get_lines()}
    np.testing.assert_array_equal(curves["validation (outer loss)"], [1 / (step + 1) for step in range(5)])
    np.testing.assert_array_equal(curves["test, held out"], [0.5] * 5)
    assert right.get_yscale() == "log"


def test_a_hypergradient_of_zero_and_nan_can_be_drawn():
    result = result_of(jnp.zeros(3), {"outer/grad_norm": 0.0, "error_estimate": float("nan")})
    assert training(result).axes[1].get_yscale() == "linear"


@pytest.mark.parametrize("number", [1, 3, 100, 101, 900])
def test_each_array_of_hyperparameters_has_a_panel(number):
    hparams = {"weights": jnp.linspace(-1.0, 1.0, number), "scale": jnp.asarray(0.3)}
    panels = hyperparameters(result_of(hparams)).axes
    assert [axes.get_title() for axes in panels] == ["hparams['scale'] (1)", f"hparams['weights'] ({number})"]
    bars = [patch.get_height() for patch in panels[1].patches if isinstance(patch, Rectangle)]
    if number <= 100:
        np.testing.assert_allclose(bars, hparams["weights"])
    else:
        assert sum(bars) == number


def test_hyperparameters_have_the_names_of_the_task():
    result = result_of(jnp.array([-1.0, 2.0]))
    result.summary["hparams_natural"] = {"scale": 1.0, "penalty": {"age": 0.4, "bmi": 7.4}}
    (axes,) = hyperparameters(result).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["age", "bmi"]


def test_a_single_hyperparameter_is_drawn_as_its_path():
    result = result_of(jnp.asarray(0.3))
    for line in result.metrics:
        line["hparams"] = 0.1 * line["step"]
    left, right = hyperparameters(result).axes
    np.testing.assert_allclose(np.asarray(left.get_lines()[0].get_ydata(), float), 0.1 * np.arange(5))
    np.testing.assert_allclose(np.asarray(right.get_lines()[0].get_ydata(), float), 1 / (np.arange(5) + 1))
    assert all(tick == int(tick) for tick in left.get_xticks())


def test_the_tasks_own_are_drawn_and_a_failing_one_is_told():
    def fail(result):
        raise KeyError("images")

    task: Any = SimpleNamespace(figures={"own": training, "bad": fail})
    with pytest.warns(UserWarning, match="figure bad could not be drawn: KeyError: 'images'"):
        assert [name for name, _ in figures(task, result_of(jnp.zeros(3)))] == ["training", "hyperparameters", "own"]


def test_what_is_no_picture_is_told(tmp_path):
    record = JsonLines()
    record.start(Run(tmp_path))
    with pytest.warns(UserWarning, match="figure own could not be kept: AttributeError"):
        keep_figure(record, "own", None)
    record.finish({})
