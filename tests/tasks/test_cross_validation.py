"""Folds as columns of one problem: equal to one problem a fold, with the penalties it names."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from sklearn.linear_model import ElasticNet

import bilevel as bl
from bilevel.tasks import cross_validation
from bilevel.tasks.cross_validation import Path, goes_on


@pytest.mark.sample(1)
@pytest.mark.parametrize(("loss", "penalty", "size"), [("logistic", "ridge_per_feature", 30), ("squared", "ridge", 1)])
def test_hypergradient_agrees_with_differences(loss, penalty, size, agrees_with_differences):
    task = cross_validation(loss=loss, penalty=penalty, folds=3)
    agrees_with_differences(task, jax.random.normal(jax.random.key(1), (size, 1)) - 3, rtol=1e-6)


@pytest.mark.slow
def test_each_column_is_the_elastic_net_of_scikit_learn_on_its_fold():
    task = cross_validation(data="diabetes", loss="squared", penalty="elastic_net", folds=3)
    batch, _ = task.batches(jax.random.key(0), 0)
    inputs, targets, weights = batch
    a, r = 5.0, 0.5
    params = task.inner.solve(jnp.log(jnp.array([[a], [r]])), batch).params
    for column in range(3):
        used = weights[:, column] > 0
        model = ElasticNet(alpha=a + r, l1_ratio=a / (a + r), fit_intercept=False, tol=1e-12, max_iter=100_000)
        model.fit(inputs[used], targets[used])
        np.testing.assert_allclose(params[:, column], model.coef_, atol=1e-5 * np.abs(model.coef_).max())


@pytest.mark.slow
@pytest.mark.parametrize("wide", [10, 1000])
def test_sparse_inputs_stay_sparse(monkeypatch, wide):
    """With the solution, the loss and the hypergradient of dense inputs that are divided only, on both solvers."""
    module = sys.modules["bilevel.tasks.cross_validation"]
    found = bl.data.classification("breast_cancer")
    found = found._replace(inputs=found.inputs * (found.inputs > np.median(found.inputs, axis=0)))
    divided = found._replace(inputs=found.inputs / found.inputs.std(axis=0))
    monkeypatch.setattr(module, "WIDE", wide)
    stored = found._replace(inputs=scipy.sparse.csr_matrix(found.inputs))
    monkeypatch.setattr(module.data_sets, "classification", lambda *args, **kwargs: stored)
    sparse = cross_validation(penalty="lasso", folds=3)
    monkeypatch.setattr(module.data_sets, "classification", lambda *args, **kwargs: divided)
    monkeypatch.setattr(module.data_sets, "standardise", lambda splits: splits)
    dense = cross_validation(penalty="lasso", folds=3)

    def loss(task, hparams):
        fitted_to, judged_on = task.batches(jax.random.key(0), 0)
        return task.outer_loss(task.inner.solve(hparams, fitted_to).params, hparams, judged_on)

    hparams = dense.init_hparams(jax.random.key(0))
    ours, theirs = (jax.value_and_grad(partial(loss, task))(hparams) for task in (sparse, dense))
    np.testing.assert_allclose(sparse.init_hparams(jax.random.key(0)), hparams, rtol=1e-12)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)


@pytest.mark.slow
def test_many_features_are_solved_on_the_columns_in_use(monkeypatch):
    """With the same solution as few features are, and the baseline's loss at its penalty."""
    plain = cross_validation(penalty="lasso", folds=3)
    monkeypatch.setattr(sys.modules["bilevel.tasks.cross_validation"], "WIDE", 10)
    wide = cross_validation(penalty="lasso", folds=3)
    assert isinstance(wide.inner.solver, bl.WorkingSet) and not isinstance(plain.inner.solver, bl.WorkingSet)
    batches, found = plain.batches(jax.random.key(0), 0), wide.baselines()
    solve = lambda task: task.inner.solve(jnp.log(jnp.full((1, 1), found["baseline/penalty"])), batches[0]).params
    np.testing.assert_allclose(solve(wide), solve(plain), atol=1e-7)
    np.testing.assert_allclose(
        plain.outer_loss(solve(plain), None, batches[1]), found["baseline/outer/loss"], rtol=1e-7
    )


@pytest.mark.parametrize(
    ("losses", "wide", "left"),
    [([], True, True), ([2.0], True, True), ([2.0, 2.0], True, True), ([2.0, 1.0, 1.1], True, False),
     ([2.0, 1.0, 1.1], False, True), ([2.0, 1.5, 1.0, 0.5], False, False)],
)  # fmt: skip
def test_the_grid_of_a_wide_problem_ends_where_the_loss_begins_to_rise(losses, wide, left):
    path = Path(None, jnp.zeros(4).at[: len(losses)].set(jnp.array(losses)), jnp.int32(len(losses)))
    assert bool(goes_on(path, wide)) == left


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "hinge"}, r"task\.loss=hinge: choose one of squared, logistic"),
        ({"penalty": "group"}, r"task\.penalty=group: choose one of"),
        ({"folds": 1}, "take from 2 to 569 folds"),
        ({"folds": 2.5}, "take from 2 to 569 folds"),
        ({"start": 0.0}, r"task\.start=0\.0: take a positive number"),
        ({"shrinkage": -1.0}, r"task\.shrinkage=-1\.0: take 0 or a positive number"),
        ({"data": "diabetes"}, "has 0 classes: task.loss=logistic needs two, as breast_cancer has"),
        (
            {"data": "iris", "loss": "squared"},
            "has 3 classes: task.loss=squared needs numbers, as diabetes has, or two",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        cross_validation(**settings)


@pytest.mark.slow
def test_one_penalty_a_feature_is_below_one_for_all():
    """On the folds, which many penalties overfit."""
    losses = {}
    for penalty in ("ridge", "ridge_per_feature"):
        task = cross_validation(penalty=penalty)
        result = bl.Trainer(optimizer=optax.adam(0.2), engine=bl.Implicit(), steps=30).fit(task, key=jax.random.key(0))
        losses[penalty] = result.summary["best_outer_loss"]
    assert losses["ridge_per_feature"] < losses["ridge"]


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["ridge", "lasso", "elastic_net", "weighted_lasso"])
def test_the_baseline_is_the_lowest_loss_of_a_single_penalty(penalty):
    task = cross_validation(penalty=penalty)
    found, batches = task.baselines(), task.batches(jax.random.key(0), 0)
    loss = jax.jit(lambda h: task.outer_loss(task.inner.solve(h, batches[0]).params, h, batches[1]))
    shape = task.init_hparams(jax.random.key(0)).shape
    at = [float(loss(jnp.full(shape, jnp.log(found["baseline/penalty"] * by)))) for by in (0.7, 1.0, 1.4)]
    np.testing.assert_allclose(at[1], found["baseline/outer/loss"], rtol=1e-7)
    assert at[1] <= min(at) * (1 + 1e-3)  # the grid's steps are of 10**(1/6)
