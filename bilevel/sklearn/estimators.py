"""The table of estimators: which loss of the library an estimator minimises, and how its parameters penalise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, PoissonRegressor, Ridge


@dataclass(frozen=True)
class Family:
    """loss + sum_j l1_j |w_j| + 1/2 sum_j l2_j w_j^2, with l1 = share strength and l2 = (1 - share) strength.

    ``strength`` names the parameter that is the strength, or its inverse where ``inverse``; ``ratio`` the parameter
    that is the share, where there is one; ``share(estimator)`` is the share where nothing tunes it. ``reduction``:
    whether the loss is a mean or a sum over the samples. ``unlike(estimator)`` says, in a sentence, why this instance
    minimises something else; empty where it does not.
    """

    loss: str  # of bilevel.losses; logistic stands for two classes and more
    strength: str
    inverse: bool
    reduction: str
    share: Callable[[Any], float]
    ratio: str = ""
    span: tuple[float, float] = (1e-4, 1e4)  # of the strength parameter where the user states no range
    unlike: Callable[[Any], str] = lambda estimator: ""

    @property
    def classifies(self) -> bool:
        return self.loss == "logistic"


def _no_sign(estimator: Any) -> str:
    return "positive=True constrains the coefficients" if estimator.positive else ""


def _logistic(estimator: Any) -> str:
    if estimator.solver == "liblinear" and estimator.fit_intercept:
        return "solver='liblinear' penalises the intercept: choose another solver"
    if not math.isfinite(estimator.C) or getattr(estimator, "penalty", "") is None:
        return "it has no penalty"
    return ""


def _share(estimator: Any) -> float:
    """The share of the l1 penalty of a LogisticRegression, by either of scikit-learn's two ways to say it."""
    named = {"l1": 1.0, "l2": 0.0}.get(str(getattr(estimator, "penalty", "")))
    return float(estimator.l1_ratio or 0.0) if named is None else named


FAMILIES: dict[type, Family] = {
    Ridge: Family("squared", "alpha", False, "sum", lambda _: 0.0, span=(1e-4, 1e5), unlike=_no_sign),
    LogisticRegression: Family("logistic", "C", True, "sum", _share, "l1_ratio", unlike=_logistic),
    Lasso: Family("squared", "alpha", False, "mean", lambda _: 1.0, unlike=_no_sign),
    ElasticNet: Family(
        "squared", "alpha", False, "mean", lambda estimator: float(estimator.l1_ratio), "l1_ratio", unlike=_no_sign
    ),
    PoissonRegressor: Family("poisson", "alpha", False, "mean", lambda _: 0.0),
}


def family_of(estimator: Any) -> Family:
    """The row of the table for this estimator. Raises ValueError with a sentence for any other."""
    family = FAMILIES.get(type(estimator))
    if family is None:
        known = ", ".join(kind.__name__ for kind in FAMILIES)
        raise ValueError(
            f"HypergradientSearchCV knows {known}, alone or at the end of a Pipeline, not {type(estimator).__name__}: "
            "state its inner problem as a bl.Task and minimise with bl.Trainer."
        )
    if sentence := family.unlike(estimator):
        raise ValueError(f"HypergradientSearchCV cannot tune this {type(estimator).__name__}: {sentence}.")
    return family
