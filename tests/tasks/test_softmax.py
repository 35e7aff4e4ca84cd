"""Softmax regression: losses by hand, the grid against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from bilevel import data
from bilevel.tasks import softmax


def test_cross_entropy_by_hand():
    logits = np.array([[0.0, np.log(3.0)], [2.0, 2.0]])
    assert_allclose(
        softmax.cross_entropy(jnp.asarray(logits), np.array([1, 0])), [np.log(4 / 3), np.log(2.0)], rtol=1e-14
    )


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_that_is_no_class_has_no_loss(label):
    losses = softmax.cross_entropy(jnp.zeros((2, 2)), np.array([label, 1]))
    assert np.isnan(losses[0])
    assert_allclose(losses[1], np.log(2.0))
    with pytest.raises(data.DataError, match=f"label {label} of sample 1"):
        softmax.samples(data.DataSet(np.zeros((2, 1)), np.array([1, label]), classes=2))


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    assert_allclose(softmax.cross_entropy(logits, np.array([0, 0])), [0.0, 2e4])
    assert np.all(np.isfinite(jax.grad(lambda z: jnp.sum(softmax.cross_entropy(z, np.array([0, 0]))))(logits)))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1e-2])
def test_one_penalty_against_scikit_learn(penalty):
    found = data.load("iris")
    train = softmax.samples(data.standardise(data.split(found, 100, 30)).train)
    fit = softmax.best_of_grid(train, train, 3, (penalty,))
    witness = LogisticRegression(C=1 / (penalty * 100), fit_intercept=False, tol=1e-10, max_iter=10000)
    witness.fit(*train)  # no intercept there: the column of ones is penalised like the others
    assert_allclose(fit.params, witness.coef_.T, atol=1e-5)
    assert fit.penalty == penalty


def test_the_grid_chooses_by_the_second_set():
    found = data.load("iris")
    splits = data.standardise(data.split(found, 60, 60))
    train, validation = softmax.samples(splits.train), softmax.samples(splits.validation)
    fit = softmax.best_of_grid(train, validation, 3, (1e-3, 1e-1, 10.0))
    losses = [
        softmax.mean_loss(softmax.best_of_grid(train, train, 3, (p,)).params, validation) for p in (1e-3, 1e-1, 10.0)
    ]
    assert fit.penalty == (1e-3, 1e-1, 10.0)[int(np.argmin(losses))]
