"""Support vector machines by LIBSVM: their loss is scikit-learn's, and their derivative exact also at the ends."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.svm import SVC

from bilevel.sklearn import dual, interior, machines
from bilevel.sklearn.folds import Folds
from bilevel.sklearn.machines import Machines
from bilevel.sklearn.statements import Kind

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((40, 3)), np.arange(40) % 2
SINGLE = 1e-5  # LIBSVM keeps its kernel in single precision, whose rounding is up to 1e-7 for each row
TRAIN, HELD = np.arange(40) < 30, np.arange(40) >= 30


def problem(kernel: str, weights: np.ndarray = np.ones(40), inputs: np.ndarray = X, y: np.ndarray = Y) -> Machines:
    lanes = [np.where(part, weights, 0.0)[None] for part in (TRAIN, HELD)]
    kind = Kind("c_svm", "sum", True, 3, 0, False, True, kernel=kernel)
    return Machines(kind, Folds(inputs, lanes[0], lanes[1], []), y, np.array([True]))


def logs(strength: float, gamma: np.ndarray) -> dict[str, np.ndarray]:
    return {"strength": np.full((1, 1), strength), "gamma": gamma[:, None]}


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("strength", [8.0, 0.0, -3.0])  # at 8 each dual is at its end
def test_the_loss_is_that_of_scikit_learn_and_its_gradient_the_derivative(kernel, strength):
    gamma, fold = np.array([-1.0, 0.2, -2.0]), problem(kernel)
    scaled = X * np.exp(0.5 * gamma) if kernel == "rbf" else X
    twin = SVC(kernel=kernel, C=np.exp(-strength), tol=1e-10).set_params(gamma=1.0).fit(scaled[TRAIN], Y[TRAIN])
    free = np.abs(twin.dual_coef_) < twin.C
    assert np.any(free) == (strength < 8)
    signs, decisions = 2 * Y[HELD] - 1, twin.decision_function(scaled[HELD])
    found = fold(logs(strength, gamma))
    assert_allclose(found.values[0], np.mean(np.maximum(0, 1 - signs * decisions)), rtol=SINGLE)
    assert not found.failed[0]

    step = 1e-5
    away = lambda by, d: fold(logs(strength + by * d[0], gamma + by * d[1:])).values[0]
    numeric = [(away(step, d) - away(-step, d)) / (2 * step) for d in np.eye(4)]
    stated = np.append(found.gradients["strength"].ravel(), found.gradients["gamma"].ravel())
    assert_allclose(stated, numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_the_interior_point_method_goes_on_where_libsvm_ends(monkeypatch, kernel):
    at = logs(-2.0, np.zeros(3))
    whole = problem(kernel)(at)
    monkeypatch.setattr(machines, "QUICK", 3)
    monkeypatch.setattr(dual, "ROUNDS", 1)
    found = problem(kernel)(at)
    assert not found.failed[0]
    assert_allclose(found.values, whole.values, rtol=1e-10)
    assert_allclose(found.gradients["strength"], whole.gradients["strength"], rtol=1e-8)
    monkeypatch.setattr(interior, "STEPS", 0)
    assert problem(kernel)(at).failed[0]


def test_columns_of_different_sizes_are_solved():
    """LIBSVM needs more than 10^6 steps here; the exact point is certified by the conditions on all rows."""
    scales, noise = np.array([0.01, 1.0, 100.0]), np.random.default_rng(3).integers(0, 2, 40)
    fold = problem("linear", inputs=X * scales, y=noise)
    assert not np.any([fold(logs(strength, np.zeros(3))).failed for strength in (3.0, 0.0, -5.0)])


def test_a_weight_counts_as_repeated_rows():
    twice = np.where(np.arange(40) < 10, 2.0, 1.0)
    found = problem("rbf", twice)(logs(0.5, np.zeros(3)))
    rows = np.append(np.arange(10), np.arange(30))
    twin = SVC(C=np.exp(-0.5), tol=1e-10).set_params(gamma=1.0).fit(X[rows], Y[rows])
    margins = 1 - (2 * Y[HELD] - 1) * twin.decision_function(X[HELD])
    assert_allclose(found.values[0], np.mean(np.maximum(0, margins)), rtol=SINGLE)
