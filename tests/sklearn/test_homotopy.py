"""The paths that solves of a lasso start from: the solution at every strength, weights and intercept included."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Lasso
from sklearn.model_selection import KFold

from bilevel.sklearn import HypergradientSearchCV
from bilevel.sklearn.folds import Folds
from bilevel.sklearn.homotopy import Path, Paths, applies
from bilevel.sklearn.lanes import program_of
from bilevel.sklearn.statements import Kind

N, P = 40, 150
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, P)) + 0.5
Y = X[:, :5] @ np.array([1.0, -1.0, 2.0, 0.5, 1.0]) + 0.5 * RNG.standard_normal(N) + 1.0
KIND = Kind("squared", "mean", True, P, 0, True, False)


def lasso(strength, **options):
    return Lasso(strength, tol=1e-14, max_iter=10**6, **options)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weights", [np.ones(N), np.arange(N) % 4 * 1.0])
def test_a_path_holds_the_solution_at_every_strength(weights, intercept):
    path = Path(X.T, Y, weights, intercept)
    for strength in (0.11, 100.0, 0.5, 0.012):  # the smaller ones carry the path on
        exact = lasso(strength, fit_intercept=intercept).fit(X, Y, weights)
        expected = np.append(exact.coef_, exact.intercept_ if intercept else [])
        assert_allclose(path.at(strength), expected, atol=1e-5)


CORRELATED = 0.1 * X + RNG.standard_normal((N, 1))  # correlations between features of 0.99
HARD = {
    "features that move together": CORRELATED,
    "two equal features": np.concatenate([X, X[:, :3]], axis=1),
    "a constant feature": np.concatenate([X, np.ones((N, 1))], axis=1),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_features_have_the_path_of_a_minimiser(name):
    """The objective is compared and not the coefficients, which equal features share in many ways."""
    inputs = HARD[name]
    path = Path(np.ascontiguousarray(inputs.T), Y, np.ones(N), True)
    for strength in (0.3, 0.05, 0.005):
        exact = lasso(strength).fit(inputs, Y)
        objectives = [
            0.5 * np.mean((inputs @ weights + intercept - Y) ** 2) + strength * np.sum(np.abs(weights))
            for weights, intercept in ((path.at(strength)[:-1], path.at(strength)[-1]), (exact.coef_, exact.intercept_))
        ]
        assert_allclose(*objectives, rtol=1e-7)


def test_each_lane_has_its_own_path_and_it_grows():
    train = np.stack([np.arange(N) < 30, np.arange(N) >= 10]).astype(float)
    paths = Paths(KIND, Folds(X, train, 1 - train, []), np.stack([Y, -2 * Y]), np.array([True, True]))
    for strength in (0.5, 0.02):
        for lane, targets in enumerate((Y, -2 * Y)):
            exact = lasso(strength).fit(X, targets, train[lane]).coef_
            assert_allclose(paths.at(strength)[lane, :P, 0], exact, atol=1e-5)


def test_only_a_lasso_of_one_target_has_paths():
    assert applies(KIND, N)
    others = [{"l2": True}, {"columns": 2}, {"loss": "logistic"}, {"l1": False}, {"features": 10**8}]
    assert not any(applies(KIND._replace(**other), N) for other in others)


def test_a_search_with_many_columns_finds_what_a_path_does():
    """The loss on the folds is that of exact solutions, the descent ends at a minimum, and nothing compiles again."""
    folds = KFold(4, shuffle=True, random_state=0)
    search = HypergradientSearchCV(lasso(1.0), {"alpha": (0.01, 1.0)}, cv=folds, scoring="neg_mean_squared_error")
    search.fit(X, Y)
    before = program_of.cache_info().misses
    search.fit(X + 0.0, Y)
    assert program_of.cache_info().misses == before
    assert_allclose(search.history_[search.best_index_]["loss"], -0.5 * search.best_score_, rtol=1e-8)
    strengths = np.geomspace(0.01, 1.0, 40)
    errors = [
        np.mean([np.mean((lasso(a).fit(X[t], Y[t]).predict(X[v]) - Y[v]) ** 2) for t, v in folds.split(X)])
        for a in strengths
    ]
    assert -search.best_score_ <= min(errors) * (1 + 1e-4)
    assert_allclose(search.best_estimator_.coef_, lasso(search.best_params_["alpha"]).fit(X, Y).coef_, atol=1e-7)
