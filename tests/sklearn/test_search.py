"""`HypergradientSearchCV`: its loss is that of the folds, its gradient exact, and its estimator scikit-learn's."""

import itertools
import warnings
from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose
from sklearn.base import clone, is_regressor
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ElasticNet,
    HuberRegressor,
    Lasso,
    LogisticRegression,
    MultiTaskLasso,
    PoissonRegressor,
    Ridge,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, PredefinedSplit, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import (
    check_estimator,
    check_sample_weight_equivalence_on_dense_data,
    check_sample_weights_not_overwritten,
)

from bilevel.sklearn import HypergradientSearchCV, checks
from bilevel.sklearn.descent import Objective
from bilevel.sklearn.estimators import family_of
from bilevel.sklearn.folds import Data, folds_of
from bilevel.sklearn.lanes import program_of
from bilevel.sklearn.problems import problem_of
from bilevel.sklearn.space import space_of
from bilevel.sklearn.statements import Kind
from bilevel.sklearn.sure import PROBES

N, P = 60, 4
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, P)) * [1.0, 2.0, 0.5, 1.0]
NOISY = X @ np.array([1.0, 0.0, -2.0, 0.0]) + RNG.standard_normal(N)
BINARY = np.where(NOISY > 0, "yes", "no")
EXACT = LogisticRegression(solver="newton-cholesky", tol=1e-12)
C = {"C": (1e-3, 1e3)}


def slow(*values) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def copy(estimator) -> Any:
    return clone(estimator)


def fold_loss(estimator, scoring, y, cv: Any = 5, **parameters):
    return -np.mean(cross_val_score(copy(estimator).set_params(**parameters), X, y, cv=cv, scoring=scoring))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("estimator", "name", "y", "scoring", "half"),
    [(EXACT, "C", BINARY, "neg_log_loss", 1.0), (Ridge(), "alpha", NOISY, "neg_mean_squared_error", 0.5)],
)
def test_one_value_is_as_good_as_a_grid(estimator, name, y, scoring, half):
    search = HypergradientSearchCV(estimator, {name: (1e-3, 1e3)}, scoring=scoring).fit(X, y)
    best = min(fold_loss(estimator, scoring, y, **{name: value}) for value in np.logspace(-3, 3, 30))
    assert -search.best_score_ <= best * (1 + 1e-4)
    assert_allclose(search.history_[search.best_index_]["loss"], -half * search.best_score_, rtol=1e-6)
    again = cross_val_score(copy(estimator).set_params(**search.best_params_), X, y, scoring=scoring)
    found = [search.cv_results_[f"split{fold}_test_score"][search.best_index_] for fold in range(5)]
    assert_allclose(found, again, rtol=1e-5)
    assert_allclose(search.best_estimator_.coef_, copy(estimator).set_params(**search.best_params_).fit(X, y).coef_)


CLASSES = np.digitize(NOISY, [-1.0, 1.0])
COUNTS = RNG.poisson(np.exp(0.3 * X[:, 0] + 0.4))
TWO = np.stack([NOISY, X[:, 0] + NOISY], 1)


def minus_hinge(power):
    """Minus the mean of max(0, 1 - s z)^power, summed over the columns of the decisions."""

    def score(estimator, inputs, labels):
        decisions = estimator.decision_function(inputs)
        signs = np.where(labels[:, None] == estimator.classes_, 1, -1)
        signs = signs[:, 1] if decisions.ndim == 1 else signs
        return -np.mean(np.sum(np.maximum(0, 1 - signs * decisions).reshape(len(labels), -1) ** power, axis=1))

    return score


def minus_hinge_of_pairs(estimator, inputs, labels):
    """Minus the mean of the hinge losses of the pairs that a row's class is in, summed."""
    decisions, total = estimator.decision_function(inputs), 0.0
    for pair, (first, second) in enumerate(itertools.combinations(estimator.classes_, 2)):  # positive for the first
        mine = (labels == first) | (labels == second)
        signs = np.where(labels[mine] == first, 1, -1)
        total += np.sum(np.maximum(0, 1 - signs * decisions[mine, pair]))
    return -total / len(labels)


def huber_objective(estimator, inputs, targets):
    """What HuberRegressor minimises (Owen, 2007), at its own coefficients, intercept and scale."""
    scale, epsilon = estimator.scale_, estimator.epsilon
    away = np.abs(targets - estimator.predict(inputs)) / scale
    losses = np.where(away < epsilon, away**2, 2 * epsilon * away - epsilon**2)
    return np.sum(scale * (1 + losses)) + estimator.alpha * np.sum(estimator.coef_**2)


HALVES = np.repeat([0.0, 1.0], N // 2)
HINGE, SQUARED_HINGE, PAIRS = minus_hinge(1), minus_hinge(2), minus_hinge_of_pairs
SPARSE = LogisticRegression(solver="saga", l1_ratio=1.0, tol=1e-9, max_iter=10**5)
OTHERS = {
    "lasso": (Lasso(tol=1e-12), {"alpha": (1e-3, 1.0)}, NOISY, "neg_mean_squared_error"),
    "elastic net": (
        ElasticNet(tol=1e-12), {"alpha": (1e-3, 1.0), "l1_ratio": (0.1, 0.9)}, NOISY, "neg_mean_squared_error"
    ),
    "poisson": (
        PoissonRegressor(solver="newton-cholesky", tol=1e-12), {"alpha": (1e-3, 10.0)}, COUNTS,
        "neg_mean_poisson_deviance",
    ),
    "l1 logistic": (SPARSE, {"C": (1e-2, 1e2)}, BINARY, "neg_log_loss"),
    "multinomial": (EXACT, C, CLASSES, "neg_log_loss"),
    "targets": (Ridge(), {"alpha": (1e-3, 1e3)}, TWO, "neg_mean_squared_error"),
    "multi-task lasso": (MultiTaskLasso(tol=1e-12), {"alpha": (1e-3, 1.0)}, TWO, "neg_mean_squared_error"),
    "huber": (HuberRegressor(tol=1e-10, max_iter=10**5), {"alpha": (1e-3, 1e3)}, NOISY, "neg_mean_squared_error"),
    "linear svc": (LinearSVC(tol=1e-10, max_iter=10**6), {"C": (1e-3, 1e2)}, BINARY, SQUARED_HINGE),
    "linear svc, three classes": (LinearSVC(tol=1e-10, max_iter=10**6), {"C": (1e-3, 1e2)}, CLASSES, SQUARED_HINGE),
    "kernel ridge": (KernelRidge(), {"alpha": (1e-3, 1e3)}, NOISY, "neg_mean_squared_error"),
    "rbf ridge": (
        KernelRidge(kernel="rbf"), {"gamma": (1e-2, 10.0), "alpha": (1e-3, 1e2)}, TWO, "neg_mean_squared_error"
    ),
    "svc": (SVC(kernel="linear", tol=1e-10), {"C": (1e-2, 1e2)}, BINARY, HINGE),
    "svc, gamma of the rows": (SVC(tol=1e-10), {"C": (1e-2, 1e2)}, BINARY, HINGE),
    "rbf svc": (SVC(tol=1e-10), {"gamma": (1e-2, 10.0), "C": (1e-2, 1e2)}, BINARY, HINGE),
    "svc, three classes": (
        SVC(tol=1e-10, decision_function_shape="ovo"), {"C": (1e-2, 1e2)}, CLASSES, PAIRS
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_each_estimator_minimises_what_scikit_learns_does(name):
    estimator, space, y, scoring = OTHERS[name]
    search = HypergradientSearchCV(estimator, space, cv=KFold(3), scoring=scoring).fit(X, y)
    found = [search.cv_results_[f"split{fold}_test_score"][search.best_index_] for fold in range(3)]
    chosen = copy(estimator).set_params(**search.best_params_)
    assert_allclose(found, cross_val_score(chosen, X, y, cv=KFold(3), scoring=scoring), rtol=1e-5)
    again = copy(chosen).fit(X, y)
    assert type(search.best_estimator_) is type(estimator)
    if is_regressor(again):  # scikit-learn's own HuberRegressor stops this far from the solution
        close = 1e-5 if isinstance(again, HuberRegressor) else 0.0
        assert_allclose(search.best_estimator_.predict(X), again.predict(X), atol=close)
        if close:
            assert huber_objective(search.best_estimator_, X, y) <= huber_objective(again, X, y) + 1e-12
    parameter, (low, high) = next(iter(space.items()))
    others = {key: value for key, value in search.best_params_.items() if key != parameter}
    grid = [
        fold_loss(chosen, scoring, y, cv=KFold(3), **others, **{parameter: value})
        for value in np.geomspace(low, high, 20)
    ]
    assert -search.best_score_ <= min(grid) * (1 + 1e-4)


@pytest.mark.slow
def test_penalties_of_classes_are_those_of_the_estimator_found():
    search = HypergradientSearchCV(EXACT, {"C": "per_class"}, cv=KFold(3), guard="off", max_iter=5).fit(X, CLASSES)
    found, penalties = search.best_estimator_, 1 / search.best_params_["C"]
    assert np.ptp(np.log(penalties)) > 0.1
    residual = found.predict_proba(X) - np.eye(3)[CLASSES]
    assert_allclose(X.T @ residual + penalties * found.coef_.T, 0, atol=1e-6)


def test_a_second_fit_compiles_nothing():
    search = HypergradientSearchCV(EXACT, C, guard="off", max_iter=3).fit(X, BINARY)
    program = program_of(Kind("logistic", "sum", True, P, 0, False, True))[0]
    before = program.traces, program.compilations
    compiled: list[str] = []

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        search.fit(X[:58], BINARY[:58])
        search.set_params(space={"C": "per_feature"}, cv=KFold(5, shuffle=True, random_state=0))
        search.fit(X[:58], BINARY[:58])
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled  # of programs that XLA compiled, whoever asked for it
    assert (program.traces, program.compilations) == before and before[1] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "stated", "y"),
    [
        (EXACT, {"C": "per_feature"}, BINARY),
        (EXACT, {"C": [[0, 2], [1, 3]]}, BINARY),
        slow(ElasticNet(), {"alpha": "per_feature", "l1_ratio": 0.5}, NOISY),
        slow(LinearSVC(intercept_scaling=2), {"C": "per_feature"}, BINARY),
        slow(HuberRegressor(), {"alpha": "per_feature"}, NOISY),
        slow(MultiTaskLasso(), {"alpha": "per_feature"}, TWO),
        slow(KernelRidge(kernel="rbf"), {"alpha": 1.0, "gamma": "per_feature"}, NOISY),
        slow(SVC(), {"C": 1.0, "gamma": "per_feature"}, BINARY),
        slow(SVC(), {"C": 1.0, "gamma": "per_feature"}, CLASSES),
    ],
)
def test_the_gradient_is_the_derivative(estimator, stated, y):
    family = family_of(estimator)
    weights = np.ones(N) if family.loss == "multi_task" else np.linspace(0.5, 1.5, N)
    data = Data(y, weights, None, None)
    if family.classifies:
        data = Data(np.unique(y, return_inverse=True)[1], weights, np.unique(y), "balanced")
    folds = folds_of(None, X, data.targets, list(KFold(3).split(X)), data, None)
    kind = checks.kind(estimator, family, folds, data)
    space = space_of(stated, estimator, family, (P, max(kind.columns, 1)), None)
    kind = kind._replace(l1=space.l1, l2=space.l2)
    objective = Objective(problem_of(kind, folds, data.targets, np.array([True, True, False])), space, shrinkage=0.1)
    u = np.linspace(-3.0, -2.0, len(space.start)) * (1 if space.l1 else -1 if family.inverse else 1)
    step = 1e-4
    numeric = [
        (objective.at(u + step * e).objective - objective.at(u - step * e).objective) / (2 * step)
        for e in np.eye(len(u))
    ]
    assert not objective.failed(objective.at(u))
    assert_allclose(objective.at(u).gradient, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("stated", ["per_feature", [[0, 2], [1, 3]]])
def test_separate_penalties_are_those_of_the_estimator_found(stated):
    """Its coefficients minimise the loss with a penalty a column, on the original columns."""
    search = HypergradientSearchCV(EXACT, {"C": stated}, guard="off", max_iter=5).fit(X, BINARY)
    penalties = 1 / search.best_params_["C"]
    penalties = penalties if stated == "per_feature" else penalties[[0, 1, 0, 1]]
    assert np.ptp(np.log(penalties)) > 0.1
    found = search.best_estimator_
    residual = 1 / (1 + np.exp(-found.decision_function(X))) - (BINARY == "yes")
    assert_allclose(X.T @ residual + penalties * found.coef_[0], 0, atol=1e-5)
    assert_allclose(np.sum(residual), 0, atol=1e-5)


@pytest.mark.slow
def test_a_pipeline_is_fitted_in_each_fold():
    pipe = make_pipeline(StandardScaler(), EXACT)
    search = HypergradientSearchCV(pipe, {"logisticregression__C": (1e-3, 1e3)}, cv=3, scoring="neg_log_loss")
    search.fit(X, BINARY)
    again = cross_val_score(copy(pipe).set_params(**search.best_params_), X, BINARY, cv=3, scoring="neg_log_loss")
    assert_allclose(search.best_score_, np.mean(again), rtol=1e-5)
    assert_allclose(
        search.predict_proba(X), copy(pipe).set_params(**search.best_params_).fit(X, BINARY).predict_proba(X)
    )


def test_inputs_of_other_kinds_give_the_same():
    search = HypergradientSearchCV(EXACT, C, cv=StratifiedKFold(5)).fit(X, BINARY)
    sparse = copy(search).fit(scipy.sparse.csr_matrix(X), BINARY)
    assert_allclose(sparse.best_params_["C"], search.best_params_["C"])
    weighted = copy(search).fit(X, BINARY, sample_weight=np.full(N, 1.0))
    assert_allclose(weighted.best_params_["C"], search.best_params_["C"])
    groups = np.repeat(np.arange(10), 6)  # no fold may split one
    assert copy(search).set_params(cv=GroupKFold(5)).fit(X, BINARY, groups=groups).n_splits_ == 5


def test_a_data_frame_keeps_its_names():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    search = HypergradientSearchCV(EXACT, {"C": [["a", "c"], ["b", "d"]]}, guard="off", max_iter=3).fit(frame, BINARY)
    assert list(search.feature_names_in_) == list(search.best_estimator_.feature_names_in_) == list("abcd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.predict(frame)


def test_groups_of_a_pipeline_name_the_columns_that_its_estimator_gets():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    stated = {"logisticregression__C": [["d", "b"], ["a", "c"]]}
    search = HypergradientSearchCV(make_pipeline(StandardScaler(), EXACT), stated, cv=3, guard="off", max_iter=2)
    by_place = copy(search).set_params(space={"logisticregression__C": [[3, 1], [0, 2]]}).fit(frame, BINARY)
    found = search.fit(frame, BINARY).best_params_["logisticregression__C"]
    assert_allclose(found, by_place.best_params_["logisticregression__C"])
    with pytest.raises(ValueError, match="no column of X, as the estimator gets it: its columns are a, b, c, d"):
        copy(search).set_params(space={"logisticregression__C": [["e"], ["a"]]}).fit(frame, BINARY)


def test_rows_may_be_lists():
    search = HypergradientSearchCV(Lasso(), {"alpha": (1e-3, 1.0)}, cv=3, max_iter=2)
    by_list = copy(search).fit(X.tolist(), NOISY.tolist())
    assert_allclose(by_list.best_estimator_.coef_, search.fit(X, NOISY).best_estimator_.coef_)


@pytest.mark.parametrize(
    "estimator",
    [Ridge(), slow(Ridge(fit_intercept=False)), Lasso(tol=1e-12), slow(HuberRegressor(tol=1e-10, max_iter=10**5))],
)
def test_the_score_of_all_steps_at_once_is_that_of_each(estimator):
    """By default R^2 is taken of all steps at once, and by the scorer "r2" of one after the other."""
    space = {"alpha": (1e-3, 1.0)}
    alone, together = (
        HypergradientSearchCV(estimator, space, cv=KFold(3), scoring=scoring).fit(X, NOISY).cv_results_
        for scoring in ("r2", None)
    )
    for fold in range(3):
        assert_allclose(together[f"split{fold}_test_score"], alone[f"split{fold}_test_score"], rtol=1e-10)


def test_the_score_of_equal_targets_is_that_of_each_step():
    """It hangs on the rounding of their mean: 0 where that is exact, and -1e30 else."""
    targets = NOISY.copy()
    targets[: N // 3] = 1 / 3
    search = HypergradientSearchCV(Ridge(), {"alpha": (1e-3, 1.0)}, cv=KFold(3), max_iter=2)
    alone, together = (copy(search).set_params(scoring=one).fit(X, targets).cv_results_ for one in ("r2", None))
    assert_allclose(together["split0_test_score"], alone["split0_test_score"], rtol=1e-10)


def test_a_score_that_is_not_defined_ranks_last():
    """R^2 of one row is NaN; the search goes by the loss, which is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        search = HypergradientSearchCV(Ridge(), {"alpha": (1e-3, 1e3)}, cv=LeaveOneOut(), max_iter=2).fit(X, NOISY)
    assert np.isnan(search.best_score_)
    assert np.all(search.cv_results_["rank_test_score"] == 1)
    assert np.isfinite(search.history_[search.best_index_]["loss"])


@pytest.mark.slow
def test_a_holdout_is_one_fold():
    fold = np.where(np.arange(N) < 45, -1, 0)
    search = HypergradientSearchCV(EXACT, C, cv=PredefinedSplit(fold), criterion="holdout").fit(X, BINARY)
    assert search.n_splits_ == 1
    drawn = HypergradientSearchCV(EXACT, C, criterion="holdout", random_state=0).fit(X, BINARY)
    assert drawn.n_splits_ == 1 and drawn.best_score_ > 0.5


WRONG: dict[str, dict[str, Any]] = {
    "'gamma' is not a parameter of LogisticRegression": dict(space={"gamma": (1.0, 2.0)}),
    "is empty: give (low, high) with low < high": dict(space={"C": (2.0, 1.0)}),
    "which has no logarithm": dict(space={"C": (0.0, 1.0)}),
    "has no logarithm: give a number above 0": dict(space={"C": -1.0}),
    "the rules with a name": dict(space={"C": "each"}),
    "leave out the columns": dict(space={"C": [[0, 1]]}),
    "in two groups": dict(space={"C": [[0, 1], [1, 2, 3]]}),
    "is no column of X": dict(space={"C": [[0, 1], [2, 9]]}),
    "needs three classes or more": dict(space={"C": "per_class"}),
    "absent from the training samples": dict(cv=[(np.flatnonzero(BINARY == "no"), np.flatnonzero(BINARY == "yes"))]),
    "knows Ridge, LogisticRegression": dict(estimator=DummyClassifier()),
    "give an instance, LogisticRegression()": dict(estimator=LogisticRegression),
    "'criterion' parameter": dict(criterion="aic"),
    "it has no penalty": dict(estimator=LogisticRegression(C=np.inf)),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_statements_are_refused_in_a_sentence(sentence):
    stated = {"estimator": EXACT, "space": C, **WRONG[sentence]}
    with pytest.raises(ValueError, match=sentence.replace("(", "\\(").replace(")", "\\)")):
        HypergradientSearchCV(**stated).fit(X, BINARY)


def test_wrong_data_are_refused_by_scikit_learn():
    search = HypergradientSearchCV(EXACT, C)
    with pytest.raises(ValueError, match="contains NaN"):
        search.fit(np.where(X > 2, np.nan, X), BINARY)
    with pytest.raises(ValueError, match="one class"):
        search.fit(X, np.full(N, "yes"))
    with pytest.raises(NotFittedError):
        search.predict(X)


@pytest.mark.slow
def test_the_guard_keeps_separate_values_where_the_truth_is_sparse():
    generator = np.random.default_rng(0)
    inputs, weights = generator.standard_normal((3000, 24)), 1.5 * (np.arange(24) < 3)
    labels = (generator.random(3000) < 1 / (1 + np.exp(-inputs @ weights))).astype(int)
    losses = []
    for space in ((1e-3, 1e3), "per_feature"):
        search = HypergradientSearchCV(LogisticRegression(), {"C": space}).fit(inputs[:250], labels[:250])
        losses.append(log_loss(labels[250:], search.predict_proba(inputs[250:])))
    assert search.guard_.startswith("Kept separate values")
    assert losses[1] <= 0.99 * losses[0]


def test_a_constant_column_keeps_the_common_penalty():
    constant = np.hstack([X[:, :3], np.ones((N, 1))])
    with pytest.warns(UserWarning, match="Columns \\[3\\] of X are constant"):
        search = HypergradientSearchCV(EXACT, {"C": "per_feature"}, guard="off", max_iter=5).fit(constant, BINARY)
    assert abs(search.best_estimator_.coef_[0, 3]) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("y", [HALVES, 1e6 * HALVES + 3, 1e-6 * HALVES, 0 * HALVES, X @ [1.0, 0.0, -2.0, 0.0]])
def test_a_fit_without_residuals_has_a_scale(y):
    """Folds whose targets are constant, or exactly linear, leave Huber's scale nothing to measure."""
    search = HypergradientSearchCV(HuberRegressor(), {"alpha": (1e-3, 1e3)}, cv=2, max_iter=2).fit(X, y)
    assert np.isfinite(search.history_[search.best_index_]["loss"])
    assert 1e-3 <= search.best_params_["alpha"] <= 1e3


def test_weights_of_samples_and_classes_are_those_of_scikit_learn():
    """The loss on the folds is the weighted one of models that scikit-learn fits with the same weights."""
    weights, estimator = np.linspace(0.5, 2.0, N), copy(EXACT).set_params(class_weight="balanced")
    search = HypergradientSearchCV(estimator, C, cv=StratifiedKFold(5)).fit(X, BINARY, sample_weight=weights)
    losses = []
    for train, held in StratifiedKFold(5).split(X, BINARY):
        fitted = copy(estimator).set_params(**search.best_params_).fit(X[train], BINARY[train], weights[train])
        losses.append(log_loss(BINARY[held], fitted.predict_proba(X[held]), sample_weight=weights[held]))
    assert_allclose(search.history_[search.best_index_]["loss"], np.mean(losses), rtol=1e-6)


@pytest.mark.slow
def test_one_length_scale_a_feature_is_that_of_the_machine_found():
    estimator = KernelRidge(kernel="rbf")
    search = HypergradientSearchCV(estimator, {"alpha": 1.0, "gamma": "per_feature"}, guard="off", max_iter=5)
    found = search.fit(X, NOISY).best_estimator_
    gamma, alpha = search.best_params_["gamma"], search.best_params_["alpha"]
    gram = np.exp(-np.sum(gamma * (X[:, None] - X[None]) ** 2, axis=2))
    assert np.ptp(np.log(gamma)) > 0.1
    assert_allclose(found.predict(X), gram @ np.linalg.solve(gram + alpha * np.eye(N), NOISY), rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [Ridge(), Lasso(tol=1e-12)])
def test_steins_estimate_of_the_risk(estimator):
    """It is that of its formula, and its minimiser is that of a grid; for a ridge without the randomness too."""
    space = {"alpha": (1e-3, 1e3) if isinstance(estimator, Ridge) else (1e-3, 1.0)}
    search = HypergradientSearchCV(estimator, space, criterion="sure", noise=1.0, random_state=0).fit(X, NOISY)
    directions = np.random.RandomState(0).standard_normal((PROBES, N))
    step = 2 / N**0.3

    def estimate(alpha):
        fit = lambda y: copy(estimator).set_params(alpha=alpha).fit(X, y).predict(X)
        first = fit(NOISY)
        freedom = np.mean([d @ (fit(NOISY + step * d) - first) / step for d in directions])
        return (np.sum((NOISY - first) ** 2) - N + 2 * freedom) / (2 * N)

    found = search.best_params_["alpha"]
    assert_allclose(search.history_[search.best_index_]["loss"], estimate(found), rtol=1e-6)
    grid = [estimate(alpha) for alpha in np.geomspace(*space["alpha"], 30)]
    assert estimate(found) <= min(grid) + 1e-4 * abs(min(grid))
    assert search.n_splits_ == 1


@pytest.mark.parametrize(
    ("estimator", "options", "weights", "sentence"),
    [
        (LogisticRegression(), {}, None, "for the squared loss"),
        (Ridge(), {}, np.arange(N) + 1.0, "no sample_weight"),
        (Ridge(), {"cv": 3, "noise": -1.0}, None, "'noise' parameter"),
    ],
)
def test_steins_estimate_refuses(estimator, options, weights, sentence):
    name = "C" if isinstance(estimator, LogisticRegression) else "alpha"
    search = HypergradientSearchCV(estimator, {name: (1e-3, 1e3)}, criterion="sure", **options)
    with pytest.raises(ValueError, match=sentence):
        search.fit(X, BINARY if name == "C" else NOISY, sample_weight=weights)


REFUSED = [
    (SVC(kernel="poly"), {"C": (1.0, 10.0)}, BINARY, ValueError, "kernel='linear' and kernel='rbf'"),
    (SVC(kernel="linear"), {"gamma": (1.0, 10.0)}, BINARY, ValueError, "'gamma' is not a parameter"),
    (SVC(), {"C": "per_feature"}, BINARY, ValueError, "is one value"),
    (LinearSVC(loss="hinge"), {"C": (1.0, 10.0)}, BINARY, ValueError, "squared_hinge"),
    (MultiTaskLasso(), {"alpha": (1.0, 10.0)}, NOISY, ValueError, "two axes"),
]


@pytest.mark.parametrize(("estimator", "space", "y", "error", "sentence"), REFUSED)
def test_what_an_estimator_cannot_is_refused(estimator, space, y, error, sentence):
    with pytest.raises(error, match=sentence):
        HypergradientSearchCV(estimator, space).fit(X, y)


CHECKED = {
    "ridge": (Ridge(), "alpha"),
    "lasso": (Lasso(), "alpha"),
    "elastic net": (ElasticNet(), "alpha"),
    "logistic": (LogisticRegression(), "C"),
    "poisson": (PoissonRegressor(), "alpha"),
    "huber": (HuberRegressor(), "alpha"),
    "multi-task lasso": (MultiTaskLasso(), "alpha"),
    "linear svc": (LinearSVC(), "C"),
    "svc": (SVC(), "C"),
    "kernel ridge": (KernelRidge(), "alpha"),
}


REPEATED = np.repeat([[1.0, 3.0], [2.0, 1.0], [3.0, 3.0], [4.0, 1.0]], 4, axis=0)


@pytest.mark.parametrize("kernel", ["rbf", slow("linear")])
def test_repeated_rows_have_a_gradient(kernel):
    """Their free block is singular, and their duals are not unique; the loss on the folds and its derivative are."""
    y = np.tile([1, 2], 8)
    data = Data(y - 1, np.linspace(0.5, 1.5, 16), np.array([1, 2]), None)
    folds = folds_of(None, REPEATED, y, list(KFold(2, shuffle=True, random_state=0).split(REPEATED)), data, None)
    estimator = SVC(kernel=kernel)
    space = space_of({"C": (1e-3, 1e3)}, estimator, family_of(estimator), (2, 1), None)
    kind = checks.kind(estimator, family_of(estimator), folds, data)
    objective = Objective(problem_of(kind, folds, data.targets, np.ones(2, bool)), space)
    for place in (-2.0, 0.3, 4.0):
        ends = [objective.at(np.array([place + sign * 1e-5])) for sign in (1, -1)]
        assert not any(map(objective.failed, ends))
        numeric = (ends[0].loss - ends[1].loss) / 2e-5
        assert_allclose(objective.at(np.array([place])).gradient[0], numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["ridge", "svc"])
def test_weights_of_samples_pass_the_checks_of_scikit_learn(name):
    estimator, parameter = CHECKED[name]
    search = HypergradientSearchCV(estimator, {parameter: (1e-3, 1e3)}, cv=2, max_iter=2)
    check_sample_weights_not_overwritten(name, search)
    check_sample_weight_equivalence_on_dense_data(name, search)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_it_passes_the_checks_of_scikit_learn(name):
    estimator, parameter = CHECKED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(HypergradientSearchCV(estimator, {parameter: (1e-3, 1e3)}, cv=2, max_iter=2), on_skip=None)
