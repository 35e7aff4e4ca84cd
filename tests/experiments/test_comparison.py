"""AUC by hand, splits that are disjoint and stratified, intervals."""

import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from experiments.dictionary.comparison import auc, interval, masks_of


def test_auc_counts_ordered_pairs():
    scores, labels = jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])
    assert_allclose(auc(scores, labels, jnp.ones(4)), 0.75)
    assert_allclose(auc(-scores, labels, jnp.ones(4)), 0.25)
    assert_allclose(auc(jnp.zeros(4), labels, jnp.ones(4)), 0.5)
    assert_allclose(auc(scores, labels, jnp.array([1.0, 0.0, 1.0, 1.0])), 1.0)


def test_splits_are_disjoint_and_keep_the_shares_of_the_classes():
    labels = np.array([0] * 60 + [1] * 30)
    masks = masks_of(labels, seed=3)
    assert_allclose(sum(masks.values()), 1.0)
    assert [int(mask[labels == 1].sum()) for mask in masks.values()] == [18, 6, 6]
    assert np.any(masks["test"] != masks_of(labels, seed=4)["test"])


def test_interval_is_of_the_mean():
    assert_allclose(interval(np.array([0.5, 0.7])), (0.6, 1.96 * 0.1))
