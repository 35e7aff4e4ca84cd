"""Precision of Jacobians: the closed form of ridge, the theorem, and the slopes of implicit and refined estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel import data
from bilevel.tasks import precision, precision_curves
from bilevel.training.trainer import Trainer


@pytest.fixture(scope="module")
def ridge_curves():
    with jax.enable_x64(True):
        return precision_curves("ridge", penalty=1.0, iterations=80)


def test_ridge_in_closed_form(ridge_curves):
    """x* and J* = -(X'X + D)^-1 diag(x*) from the formulas, against gradient descent and its implicit Jacobians."""
    found = data.load("diabetes")
    x = (found.inputs - found.inputs.mean(axis=0)) / found.inputs.std(axis=0) / np.sqrt(len(found.inputs))
    hessian, slope = x.T @ x + np.eye(10), x.T @ (found.targets - found.targets.mean())
    solution = np.linalg.solve(hessian, slope)
    step, iterate = 1 / np.linalg.eigvalsh(hessian)[-1], np.zeros(10)
    for number in range(30):
        iterate = iterate - step * (hessian @ iterate - slope)
        error = np.linalg.norm(np.linalg.solve(hessian, np.diag(iterate - solution)), 2)
        assert_allclose(ridge_curves.iterate[number], np.linalg.norm(iterate - solution), rtol=1e-8)
        assert_allclose(ridge_curves.implicit[number], error, rtol=1e-7)
        assert_allclose(
            ridge_curves.bound[number],
            np.linalg.norm(iterate - solution) / np.linalg.eigvalsh(hessian)[0],
            rtol=1e-7,
        )


def test_ridge_keeps_the_bound_and_one_correction_is_exact(ridge_curves):
    assert ridge_curves.violations() == 0
    assert abs(ridge_curves.slope(ridge_curves.implicit) - 1) < 0.05
    assert ridge_curves.advantage(absolute=1e-2) > 10
    assert float(jnp.max(ridge_curves.refined)) < 1e-10 * float(ridge_curves.scale)


def test_the_bound_can_fail(ridge_curves):
    """The unrolled Jacobian has no such bound: were it taken for the implicit one, the count would show it."""
    assert ridge_curves._replace(implicit=ridge_curves.unrolled).violations() > 40


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["logistic", "l1"])
def test_other_problems_keep_the_bound(problem):
    curves = precision_curves(problem, iterations=150)
    assert curves.violations() == 0
    assert abs(curves.slope(curves.implicit) - 1) < 0.05
    if problem == "logistic":
        assert abs(curves.slope(curves.refined) - 2) < 0.1


def test_an_unknown_problem_is_refused():
    with pytest.raises(ValueError, match="no study of 'svm': choose one of ridge, logistic, l1"):
        precision_curves("svm")


@pytest.mark.slow
def test_the_summary_and_the_figures(drawn):
    task = precision(iterations=150)
    result = Trainer(steps=2).fit(task)
    assert result.summary["bound_violations"] == 0
    assert abs(result.summary["slope_implicit"] - 1) < 0.05
    assert abs(result.summary["slope_refined"] - 2) < 0.1
    assert drawn(task, result) == {"hyperparameters", "precision"}
