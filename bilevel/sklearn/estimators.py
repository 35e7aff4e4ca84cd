"""The table of estimators: which loss of the library an estimator minimises, and how its parameters penalise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from sklearn.svm import SVC, LinearSVC


@dataclass(frozen=True)
class Family:
    """loss + sum_j l1_j |w_j| + 1/2 sum_j l2_j w_j^2, with l1 = share strength and l2 = (1 - share) strength.

    ``strength`` names the parameter that is the strength, or its inverse where ``inverse``; ``ratio`` the parameter
    that is the share, where there is one; ``share(estimator)`` is the share where nothing tunes it. ``reduction``:
    whether the loss is a mean or a sum over the samples. ``unlike(estimator)`` says in a sentence why this instance
    minimises another function; "" where it does not.
    """

    loss: str  # of bilevel.losses; logistic stands for two classes and more
    strength: str
    inverse: bool
    reduction: str
    share: Callable[[Any], float]
    ratio: str = ""
    span: tuple[float, float] = (1e-4, 1e4)  # of the strength parameter where the user states no range
    unlike: Callable[[Any], str] = lambda estimator: ""
    targets: str = "one"  # columns of y: "one", "any", or "many", which asks for two axes
    setting: Callable[[Any], float] = lambda estimator: 0.0  # the number that the loss takes
    kernel: bool = False  # a kernel machine, whose scales may be tuned by ``gamma``

    @property
    def classifies(self) -> bool:
        return self.loss in ("logistic", "squared_hinge", "c_svm")


def _none(estimator: Any) -> float:
    return 0.0


def _no_sign(estimator: Any) -> str:
    return "positive=True constrains the coefficients" if estimator.positive else ""


def _logistic(estimator: Any) -> str:
    if estimator.solver == "liblinear" and estimator.fit_intercept:
        return "solver='liblinear' penalises the intercept: choose another solver"
    if not math.isfinite(estimator.C) or getattr(estimator, "penalty", "") is None:
        return "it has no penalty"
    return ""


def _linear_svc(estimator: Any) -> str:
    if estimator.loss != "squared_hinge" or estimator.penalty != "l2" or estimator.multi_class != "ovr":
        return "it knows loss='squared_hinge', penalty='l2', multi_class='ovr'"
    return ""


def _kernel(estimator: Any) -> str:
    return "" if estimator.kernel in ("linear", "rbf") else "it knows kernel='linear' and kernel='rbf'"


def _kernel_ridge(estimator: Any) -> str:
    return "it knows one alpha for all targets" if hasattr(estimator.alpha, "__len__") else _kernel(estimator)


def _share(estimator: Any) -> float:
    """The share of the l1 penalty of a LogisticRegression, by either of scikit-learn's two ways to say it."""
    named = {"l1": 1.0, "l2": 0.0}.get(str(getattr(estimator, "penalty", "")))
    return float(estimator.l1_ratio or 0.0) if named is None else named


FAMILIES: dict[type, Family] = {
    Ridge: Family("squared", "alpha", False, "sum", _none, span=(1e-4, 1e5), unlike=_no_sign, targets="any"),
    LogisticRegression: Family("logistic", "C", True, "sum", _share, "l1_ratio", unlike=_logistic),
    Lasso: Family("squared", "alpha", False, "mean", lambda _: 1.0, unlike=_no_sign, targets="any"),
    ElasticNet: Family(
        "squared",
        "alpha",
        False,
        "mean",
        lambda estimator: float(estimator.l1_ratio),
        "l1_ratio",
        unlike=_no_sign,
        targets="any",
    ),
    PoissonRegressor: Family("poisson", "alpha", False, "mean", _none),
    HuberRegressor: Family("huber", "alpha", False, "sum", _none, setting=lambda estimator: float(estimator.epsilon)),
    MultiTaskLasso: Family("multi_task", "alpha", False, "mean", lambda _: 1.0, targets="many"),
    LinearSVC: Family("squared_hinge", "C", True, "sum", _none, unlike=_linear_svc),
    KernelRidge: Family("kernel_ridge", "alpha", False, "sum", _none, unlike=_kernel_ridge, targets="any", kernel=True),
    SVC: Family("c_svm", "C", True, "sum", _none, span=(1e-3, 1e3), unlike=_kernel, kernel=True),
}


def family_of(estimator: Any) -> Family:
    """The row of the table for this estimator. Raises ValueError with a sentence for any other."""
    if isinstance(estimator, type):
        raise ValueError(f"The estimator is the class {estimator.__name__}: give an instance, {estimator.__name__}().")
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
