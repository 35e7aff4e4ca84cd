"""One penalty a feature on published splits: the hypergradient, the protocol, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import bilevel as bl
from bilevel.data import DataError
from bilevel.tasks import feature_penalties
from bilevel.tasks.feature_penalties import GRID


@pytest.mark.slow
def test_hypergradient_agrees_with_differences(agrees_with_differences):
    agrees_with_differences(feature_penalties(), jax.random.normal(jax.random.key(1), (30,)) - 2, rtol=1e-6)


def test_a_share_of_one_set_validates_and_tests():
    task = feature_penalties(share=0.4)
    training, validating = task.batches(jax.random.key(0), 0)
    assert [len(part[1]) for part in (training, validating)] == [341, 114] and set(training[1]) == {-1.0, 1.0}
    np.testing.assert_allclose(training[0].std(axis=0), 1.0)
    assert {"test/loss", "test/accuracy"} < set(task.evaluate(jnp.zeros(30), None))


@pytest.mark.slow
def test_the_baseline_is_the_best_single_penalty_by_the_validation_set():
    """Against scikit-learn's fits of the same grid."""
    task = feature_penalties()
    (inputs, targets), (held, labels) = task.batches(jax.random.key(0), 0)
    fit = lambda penalty: LogisticRegression(
        C=1 / (len(targets) * penalty), fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(inputs, targets)
    losses = {penalty: log_loss(labels, fit(penalty).predict_proba(held)) for penalty in GRID}
    found = task.baselines()
    assert found["baseline/penalty"] == min(losses, key=losses.__getitem__)
    np.testing.assert_allclose(found["baseline/outer/loss"], min(losses.values()), rtol=1e-5)
    assert task.headline.metric == "test/loss" and "baseline/test/loss" in found


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="give a share"):
        feature_penalties(share=0.0)
    with pytest.raises(ValueError, match="has 10 classes, and two are needed"):
        feature_penalties(data="digits")


def test_missing_data_are_one_sentence(monkeypatch):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    with pytest.raises(DataError, match=r"ijcnn1 is read from a folder of published files: set data\.root=DIR"):
        feature_penalties(data="ijcnn1", held_out="ijcnn1_test", share=0.0)


@pytest.mark.slow
def test_the_published_protocol_of_ijcnn1(data_root):
    """49,990 samples train and 91,701 validate; no step of descent is needed to see that suboptimality is counted."""
    task = feature_penalties(
        data="ijcnn1", held_out="ijcnn1_test", root=str(data_root), share=0.0, standardise=False, reference=0.2
    )
    training, validating = task.batches(jax.random.key(0), 0)
    assert training[0].shape == (49_990, 22) and validating[0].shape == (91_701, 22)
    result = bl.Trainer(optimizer=optax.adam(1.0), engine=bl.Implicit(), steps=3).fit(task, key=jax.random.key(0))
    np.testing.assert_allclose(result.summary["suboptimality"], result.summary["best_outer_loss"] - 0.2, rtol=1e-6)
