"""Working sets of columns: the solution, loss and gradient are those of all columns."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.linear_model import Lasso, LogisticRegression, MultiTaskLasso
from sklearn.model_selection import KFold

from bilevel.sklearn.checks import kind
from bilevel.sklearn.columns import FEWEST, OnColumns
from bilevel.sklearn.estimators import family_of
from bilevel.sklearn.folds import Data, folds_of
from bilevel.sklearn.space import space_of

N, P = 60, 300
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, P)) + 0.3
Y = X[:, :5] @ np.array([1.0, -1.0, 2.0, 0.5, 1.0]) + 0.5 * RNG.standard_normal(N) + 1.0
CASES = {
    "lasso": (Lasso(tol=1e-12, max_iter=10**5), Y, [0.3, 0.05]),
    "logistic": (LogisticRegression(solver="saga", l1_ratio=1.0, tol=1e-9, max_iter=10**5), (Y > 1).astype(int), [0.3]),
    "rows": (MultiTaskLasso(tol=1e-12, max_iter=10**5), np.stack([Y, X[:, 3] + Y], 1), [0.3]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_working_sets_are_exact(name):
    estimator, y, values = CASES[name]
    family = family_of(estimator)
    data = Data(y, np.ones(N), np.array([0, 1]) if family.classifies else None, None)
    splits: Any = list(KFold(3).split(X))
    folds = folds_of(None, X, y, splits, data, None)
    own = kind(estimator, family, folds, data)
    space = space_of({family.strength: "per_feature"}, estimator, family, (P, max(own.columns, 1)), None)
    problem = OnColumns(own._replace(l1=True, l2=False), folds, y, np.ones(3, bool))
    for value in values:
        u = np.full(P, np.log(value))
        lanes = problem(space.penalties(u))
        assert not np.any(lanes.failed)
        for lane, (train, _) in enumerate(splits):
            fitted = clone(estimator).set_params(**{family.strength: value}).fit(X[train], y[train])
            expected = np.atleast_2d(fitted.coef_).T.reshape(lanes.params[lane][:-1].shape)
            assert_allclose(lanes.params[lane][:-1], expected, atol=1e-6)
    place, step = int(np.argmax(np.abs(lanes.params[0]).reshape(P + 1, -1)[:-1, 0])), 1e-5
    moved = [problem(space.penalties(u + step * sign * (np.arange(P) == place))).values for sign in (1, -1)]
    gradient = [space.pullback(u, {"l1": lanes.gradients["l1"][lane]}) for lane in range(3)]
    assert_allclose(np.array(gradient)[:, place], (moved[0] - moved[1]) / (2 * step), rtol=1e-4, atol=1e-8)
    assert problem.width == FEWEST
