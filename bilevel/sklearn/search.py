"""`HypergradientSearchCV`: scikit-learn's interface of a search, on the derivative of the loss on the folds."""

from __future__ import annotations

import time
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from bilevel.sklearn import checks, descent, guard, refit as refitting, results, sure
from bilevel.sklearn.descent import Objective, Step
from bilevel.sklearn.estimators import family_of
from bilevel.sklearn.fitted import FittedMethods
from bilevel.sklearn.folds import Data, Folds, folds_of, in_units_of_gamma, splitter
from bilevel.sklearn.lanes import Lanes
from bilevel.sklearn.problems import everything, problem_of, threads_for
from bilevel.sklearn.space import Space, space_of
from bilevel.sklearn.statements import Kind

NESTED = 3  # folds that the guard needs


class HypergradientSearchCV(FittedMethods, MetaEstimatorMixin, BaseEstimator):
    """Tunes the penalties of a linear model, or the scales of a kernel, by the derivative of the cross-validated loss:
    one penalty for each feature as well as one for all.

        minimise over h   mean over folds k of loss(w_k(h); validation rows of k),   w_k(h) fitted on the training rows

    ``space`` maps a parameter of the estimator (``step__parameter`` in a Pipeline) to a range ``(low, high)``, a start,
    ``"per_feature"``, ``"per_class"`` or a list of groups of columns. The loss is the estimator's own, unpenalised;
    ``scoring`` is reported, and decides what the guard keeps. ``criterion`` is "cv" or "holdout" (``cv`` a
    PredefinedSplit, or ``validation_fraction`` of the rows), or "sure" for the squared loss: Stein's estimate of the
    risk on all rows, with the deviation ``noise`` of the targets. ``guard="auto"``: where a parameter has many values,
    nested folds decide whether and how far they may differ (``guard_`` has the decision); "off" descends freely.
    ``n_jobs`` are the processes that fit the steps before the estimator, a fold each.

    Estimators: see docs/sklearn.md. Raises ValueError with a sentence for any other.

    Attributes are as in GridSearchCV, with ``history_`` (a row for each evaluation), ``n_iter_`` (their number),
    ``hypergradient_error_`` (an estimate of the error of the last gradient) and ``guard_``.

    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from bilevel.sklearn import HypergradientSearchCV
    >>> search = HypergradientSearchCV(Ridge(), {"alpha": (1e-4, 1e2)}).fit(*load_diabetes(return_X_y=True))
    >>> search.n_splits_, search.best_estimator_.coef_.shape
    (5, (10,))
    """

    _parameter_constraints: ClassVar[dict] = {
        "estimator": [HasMethods(["fit"])],
        "space": [dict],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(checks.scorers())), callable, None],
        "criterion": [StrOptions({"cv", "holdout", "sure"})],
        "refit": ["boolean"],
        "guard": [StrOptions({"auto", "off"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "noise": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "n_jobs": [Integral, None],
    }

    best_params_: dict[str, Any]
    best_estimator_: Any
    best_score_: float
    best_index_: int
    scorer_: Any
    refit_time_: float
    cv_results_: dict[str, Any]
    history_: list[dict[str, Any]]
    hypergradient_error_: float
    guard_: str
    n_iter_: int
    n_splits_: int
    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(
        self,
        estimator: Any,
        space: dict[str, Any],
        *,
        cv: Any = 5,
        scoring: Any = None,
        criterion: str = "cv",
        refit: bool = True,
        guard: str = "auto",
        max_iter: int = 50,
        validation_fraction: float = 0.2,
        noise: Any = "auto",
        random_state: Any = None,
        verbose: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.space = space
        self.cv = cv
        self.scoring = scoring
        self.criterion = criterion
        self.refit = refit
        self.guard = guard
        self.max_iter = max_iter
        self.validation_fraction = validation_fraction
        self.noise = noise
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, *, groups: Any = None, sample_weight: Any = None) -> HypergradientSearchCV:
        """Searches, and fits the estimator with the parameters found on all rows."""
        steps, last, stated = checks.parts(self.estimator, self.space)
        family = family_of(last)
        self.scorer_ = check_scoring(self.estimator, scoring=self.scoring)
        checked = checks.rows(self, X, y, sample_weight, family, steps is not None)
        data = checks.data(checked, last, family)
        if self.criterion == "sure" and family.loss != "squared":
            raise ValueError("criterion='sure' is for the squared loss: Ridge, Lasso or ElasticNet.")
        splits = self._splits(checked, groups, data)
        folds = folds_of(steps, checked.X, checked.y, splits, data, self.n_jobs)
        kind = checks.kind(last, family, folds, data)
        names = checks.names(self, steps, checked, stated)
        shape = (kind.features, max(kind.columns, 1))
        space = space_of(stated, last, family, shape, names)
        kind = kind._replace(l1=space.l1, l2=space.l2)
        if kind.kernel == "rbf" and space.gamma is None:
            folds = in_units_of_gamma(folds, last, data)
        if self.criterion == "sure":
            folds = sure.of_the_risk(folds, data, self.noise, self.random_state)
        with threads_for(kind):
            self._search(kind, space, folds, data, last)
            if self.refit:
                whole = lambda X: everything(kind, space, self._unknowns, X, folds, data)
                self._refit(space, checked, sample_weight is not None, whole)
        return self

    def _splits(self, checked: checks.Rows, groups: Any, data: Data) -> list[tuple[np.ndarray, np.ndarray]]:
        if self.criterion == "sure":  # all rows train, and the risk is estimated on them too
            return [(np.arange(len(data.weights)), np.arange(len(data.weights)))]
        cv = splitter(self.cv, self.criterion, self.validation_fraction, data, self.random_state)
        return list(cv.split(checked.X, checked.y, groups))

    def _search(self, kind: Kind, space: Space, folds: Folds, data: Data, last: Any) -> None:
        objective = Objective(
            problem_of(kind, folds, data.targets, np.ones(len(folds.train), bool)), space, verbose=self.verbose
        )
        best = descent.single(objective, True, self.max_iter)
        self.guard_ = "One value for each parameter: there is nothing to guard."
        if space.many:
            best = self._separate(kind, space, folds, data, objective, best, last)
        if objective.failed(best):
            warnings.warn("A solve of the best step did not converge: scale the columns of X.", ConvergenceWarning, 3)
        report = results.Report(
            objective.steps, best, space, folds, data, last, self.scorer_, checks.prefix(self.estimator)
        )
        for name, value in report.attributes().items():
            setattr(self, name, value)
        self._unknowns = best.u

    def _separate(
        self, kind: Kind, space: Space, folds: Folds, data: Data, objective: Objective, best: Step, last: Any
    ) -> Step:
        """The step with many values that the guard allows, or the best with one."""
        steps = self.max_iter
        rows = folds.inputs.reshape(-1, folds.inputs.shape[-1])
        if np.any(constant := np.ptp(rows, axis=0) == 0):
            places = np.flatnonzero(constant).tolist()
            warnings.warn(
                f"Columns {places} of X are constant: their penalties stay at the common value.", stacklevel=4
            )
        if self.guard == "auto":
            if len(folds.splits) < NESTED:
                self.guard_ = f"Kept the best single value, because the guard needs {NESTED} folds or more."
                return best
            score = guard.held_out if self.scoring is None else self._score(last, data)
            found = guard.verdict(kind, space, folds, data, best, score)
            self.guard_ = found.sentence()
            if not found.accepted:
                return best
            objective.shrinkage, steps = found.shrinkage, min(steps, found.steps)
        else:
            self.guard_ = "Separate values without a guard: the loss on the folds is no estimate of that on new data."
        return descent.many(objective, best.u, steps)

    def _score(self, last: Any, data: Data) -> guard.Score:
        """The user's score on held-out rows, for the guard's choice."""

        own = clone(last)

        def score(lane: int, lanes: Lanes, folds: Folds) -> float:
            return -results.score_of(self.scorer_, own, lanes, lane, folds, data, results.held(lane, folds, data))

        return score

    def _refit(self, space: Space, checked: checks.Rows, weighted: bool, whole: Any) -> None:
        began = time.perf_counter()
        self.best_estimator_ = refitting.refitted(self.estimator, space, self._unknowns, checked, weighted, whole)
        self.refit_time_ = time.perf_counter() - began

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "best_params_")

    def __sklearn_tags__(self) -> Any:
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.estimator_type, tags.classifier_tags, tags.regressor_tags = (
            own.estimator_type,
            own.classifier_tags,
            own.regressor_tags,
        )
        tags.target_tags = own.target_tags
        tags.target_tags.required = True
        tags.input_tags.sparse = own.input_tags.sparse
        tags.input_tags.allow_nan = own.input_tags.allow_nan and isinstance(self.estimator, Pipeline)
        return tags
