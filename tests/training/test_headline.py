"""What a run achieved: the figure that counts, its baselines, and the hyperparameters on the scale of people."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.foundation.stated import StatementError
from bilevel.loggers.strict_json import dumps
from bilevel.training.found import path_of
from bilevel.training.headline import headline

FIGURES = {
    **{"test_accuracy": 0.95, "initial_test_accuracy": 0.8, "test_loss": 0.2, "best_outer_loss": 0.1},
    **{"initial_outer_loss": 0.4, "baseline_test_accuracy": 0.9, "baseline_noisy": 0.7, "score": 3.0},
}


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (bl.Headline(), "test accuracy 0.95; 0.9 of the baseline; 0.8 at the start"),
        (bl.Headline("test/loss"), "test loss 0.2"),
        (bl.Headline("outer/loss", "error"), "error 0.1; 0.4 at the start"),
        (bl.Headline("score", "score", {"baseline/noisy": "with noise"}), "score 3; 0.7 with noise"),
        (bl.Headline("nothing"), "test accuracy 0.95; 0.9 of the baseline; 0.8 at the start"),
    ],
)
def test_the_sentence(stated, sentence):
    assert headline(stated, FIGURES)["sentence"] == sentence


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_figure_that_is_no_number_is_said_in_words(value):
    told = headline(bl.Headline("test/loss"), {**FIGURES, "test_loss": value})
    assert told["sentence"] == (
        f"test loss is no finite number ({value}): look for NaN in the data that it is measured on"
    )


def test_the_headline_keeps_the_words_of_its_baselines():
    told = headline(bl.Headline("score", against={"baseline/noisy": "with noise", "baseline/none": "of none"}), FIGURES)
    assert told["against"] == {"baseline_noisy": "with noise"}


def test_figures_that_are_not_there_are_told(caplog):
    told = headline(bl.Headline("score", against={"baseline/none": "of none"}), FIGURES)
    assert told["baselines"] == {} and "no number for: of none" in caplog.text
    assert headline(bl.Headline(), {}) == {}


@pytest.mark.slow
def test_a_fit_keeps_what_it_found():
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2) + 0.5 * jnp.exp(h["penalty"]) * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(3),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2) + jnp.mean(h["weights"] ** 2),
        init_hparams=lambda key: {"penalty": jnp.zeros(()), "weights": jnp.linspace(0.0, 1.0, 50)},
        batches=bl.full_batch(jnp.arange(3.0), jnp.ones(3)),
        baselines=lambda: {"baseline/none": 2.5},
        headline=bl.Headline("outer/loss", "error", {"baseline/none": "without a penalty"}),
        natural=lambda h: {"penalty": np.exp(h["penalty"]), "weight": h["weights"], "named": {"a": h["penalty"]}},
    )
    result = bl.Trainer(optimizer=optax.sgd(0.1), steps=3).fit(task, key=jax.random.key(0))
    summary = result.summary
    assert summary["headline"]["sentence"].startswith("error ")
    assert summary["headline"]["baselines"] == {"without a penalty": 2.5}
    assert summary["hparams"]["hparams['penalty']"] == pytest.approx(float(result.hparams["penalty"]))
    natural = summary["hparams_natural"]
    assert natural["penalty"] == pytest.approx(float(jnp.exp(result.hparams["penalty"])))
    assert natural["weight"]["number"] == 50 and natural["named"] == {
        "a": pytest.approx(float(result.hparams["penalty"]))
    }
    assert summary["last_hparams"]["hparams['penalty']"] == pytest.approx(float(result.last_hparams["penalty"]))
    path = [line["hparams['penalty']"] for line in result.metrics]
    assert path[0] == 0.0 == summary["initial_hparams"]["hparams['penalty']"] and len(set(path)) == 3
    assert result.metrics[0]["hparams['weights']/quantiles"] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    dumps(summary)

    def fail(hparams):
        raise KeyError("penalty")

    with pytest.warns(UserWarning, match="natural\\(hparams\\) of the task failed: KeyError"):
        failed = bl.Trainer(optimizer=optax.sgd(0.1), steps=1).fit(replace(task, natural=fail), key=jax.random.key(0))
    assert "hparams_natural" not in failed.summary
    with pytest.raises(StatementError, match="headline"):
        replace(task, headline="accuracy")


def test_every_shape_has_a_path():
    assert path_of(jnp.asarray(2.0)) == {"hparams": 2.0}
    assert path_of({"a": np.array([1.0 + 2.0j]), "b": np.zeros(0)}) == {"hparams['a']": [1.0, 2.0]}
