"""Which baselines stand beside a metric, and in which words."""

import math

import pytest

from bilevel.loggers.baselines import baseline_in_words, baselines_of

SUMMARY = {
    **{
        "headline": {
            "against": {"baseline_noisy": "with noise", "baseline_test_accuracy": "of a grid", "mse": "before"}
        }
    },
    **{"initial_test_accuracy": 0.5, "initial_test_loss": 2.0, "initial_loss": 1.0, "baseline_noisy": 0.7},
    **{"baseline_noisy_test_loss": 0.9, "baseline_test_loss": 0.4, "baseline_all_data_test_loss": 0.3},
    **{"baseline_validation_loss": 0.2, "baseline_noisy_outer_loss": 0.1, "baseline_test_loss_other": 7.0},
    **{"baseline_bad_test_loss": math.nan, "baseline_worse_test_loss": None, "baseline_penalty": 0.01},
}


def test_a_metric_has_the_baselines_that_the_headline_names_by_another_of_their_figures():
    """A baseline without a name of its own is the one whose figures are called as the metrics are."""
    assert baselines_of(SUMMARY, "test/loss") == {"with noise": 0.9, "of a grid": 0.4, "all data": 0.3}
    assert baselines_of(SUMMARY, "outer/loss") == {"of a grid": 0.2, "with noise": 0.1}
    assert baselines_of({"baseline_test_loss": 0.4, "headline": None}, "test/loss") == {"baseline": 0.4}
    assert baselines_of(SUMMARY, "stop/loss") == {}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("baseline_noisy_test_loss", "test loss with noise"),
        ("baseline_noisy_outer_loss", "outer loss with noise"),
        ("baseline_test_loss", "test loss of a grid"),
        ("baseline_all_data_test_loss", "baseline all data test loss"),
        ("baseline_penalty", "baseline penalty"),
    ],
)
def test_an_entry_in_words(entry, words):
    assert baseline_in_words(SUMMARY, entry) == words
