"""Hyperparameter search for scikit-learn's estimators, by the derivative of the loss on the folds."""

from bilevel.sklearn.search import HypergradientSearchCV

__all__ = ["HypergradientSearchCV"]
