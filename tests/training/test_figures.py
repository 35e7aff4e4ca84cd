"""The standard pictures show what the record holds, and a picture that fails costs nothing."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
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


def test_the_losses_end_at_the_last_iterate_beside_their_baselines():
    """The last iterate is measured after the last outer step, so the chosen step lies on the curve."""
    result = result_of(jnp.zeros(3), {"test/loss": 0.5})
    result.summary.update({"steps": 5, "final_outer_loss": 0.1, "last_test_loss": 0.4, "baseline_test_loss": 0.45})
    lines = {line.get_label(): line for line in training(result).axes[0].get_lines()}
    for label, end in (("validation (outer loss)", 0.1), ("test, held out", 0.4)):
        assert [float(np.asarray(data)[-1]) for data in lines[label].get_data()] == [5.0, end]
    baseline = lines["test: baseline"]
    assert set(np.asarray(baseline.get_ydata())) == {0.45}
    assert baseline.get_color() == lines["test, held out"].get_color()
    assert not any(str(label).startswith("validation:") for label in lines)


def test_a_number_beside_arrays_is_drawn_as_its_path_and_no_legend_lies_on_a_panel():
    result = result_of({"rates": jnp.zeros(10), "momentum": jnp.asarray(0.3)})
    for line in result.metrics:
        line["hparams['momentum']"] = 0.1 * line["step"]
    figure = hyperparameters(result)
    momentum, rates = figure.axes
    np.testing.assert_allclose(np.asarray(momentum.get_lines()[0].get_ydata(), float), 0.1 * np.arange(5))
    assert not momentum.patches and len(rates.patches) == 10
    assert [axes.get_legend() for axes in figure.axes] == [None, None] and len(figure.legends) == 1


def test_many_arrays_stand_in_two_columns():
    figure = hyperparameters(result_of({f"layer {number}": jnp.zeros(5) for number in range(7)}))
    assert len(figure.axes) == 7
    assert figure.get_size_inches()[1] < 12


def test_the_legend_of_a_run_with_many_baselines_covers_no_curve_and_is_not_cut():
    result = result_of(jnp.zeros(3), {"test/loss": 0.5, "stop/loss": 0.4})
    against = {f"baseline_{name}_accuracy": f"with the best of {name} penalties" for name in ("one", "two", "three")}
    result.summary["headline"] = {"against": against}
    for name in ("one", "two", "three"):
        result.summary.update({f"baseline_{name}_test_loss": 0.3, f"baseline_{name}_validation_loss": 0.2})
    figure = training(result)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert "test: with the best of two penalties" in labels and len(labels) == 12 == len(set(labels))
    FigureCanvasAgg(figure).draw()
    box = legend.get_window_extent()
    assert all(not box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 + 1
