"""The methods of a fitted search: the methods of the estimator that it found."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted


def _has(name: str) -> Any:
    def check(search: Any) -> bool:
        getattr(getattr(search, "best_estimator_", search.estimator), name)
        return True

    return available_if(check)


class FittedMethods:
    """Hands on to ``best_estimator_``; a method is there where the estimator has it."""

    estimator: Any
    refit: bool
    scorer_: Any
    best_estimator_: Any

    @property
    def classes_(self) -> np.ndarray:
        """The classes, of a classifier."""
        if not is_classifier(self.estimator):
            raise AttributeError(f"{type(self.estimator).__name__} is no classifier, so there are no classes_.")
        return self._fitted.classes_

    @property
    def _fitted(self) -> Any:
        check_is_fitted(self)
        if not self.refit:
            raise AttributeError("refit=False leaves no fitted estimator: use best_params_, or set refit=True.")
        return self.best_estimator_

    def score(self, X: Any, y: Any = None) -> float:
        """The score of the estimator found, by ``scoring`` or its own."""
        return self.scorer_(self._fitted, X, y)

    @_has("predict")
    def predict(self, X: Any) -> np.ndarray:
        """The predictions of the estimator found."""
        return self._fitted.predict(X)

    @_has("predict_proba")
    def predict_proba(self, X: Any) -> np.ndarray:
        """The probabilities of the classes."""
        return self._fitted.predict_proba(X)

    @_has("predict_log_proba")
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Their logarithms."""
        return self._fitted.predict_log_proba(X)

    @_has("decision_function")
    def decision_function(self, X: Any) -> np.ndarray:
        """The signed distances to the border between classes."""
        return self._fitted.decision_function(X)

    @_has("transform")
    def transform(self, X: Any) -> Any:
        """X transformed by the estimator found."""
        return self._fitted.transform(X)
