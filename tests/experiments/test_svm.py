"""The SVM's dual: what it states, the forms of its data, and the hypergradient by every solver and condition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.engines import Implicit
from bilevel.engines.hypergradients import hypergradient
from bilevel.tasks import svm
from experiments.svm.task import MAPPINGS, SOLVERS

SMALL: dict[str, Any] = {"features": 20, "train": 40, "validation": 20, "test": 20, "classes": 3}
AT = jnp.asarray(-1.0)


@pytest.mark.parametrize("form", ["gram", "features"])
def test_the_loss_is_that_of_the_dual(form):
    """theta/2 ||W||^2 + <x, Y> with W = X'(Y - x)/theta, from the design of the features."""
    task, plain = svm(**SMALL, form=form), svm(**SMALL, form="features")
    (design, answers), (_, towards, validation) = task.batches(jax.random.key(0), 0)
    (transposed, _), (_, others, _) = plain.batches(jax.random.key(0), 0)
    x = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    theta = float(jnp.exp(AT))
    w = transposed @ (answers - x) / theta
    assert_allclose(
        task.inner.loss(x, AT, (design, answers)), theta / 2 * np.sum(w**2) + np.sum(x * answers), rtol=1e-10
    )
    outer = task.outer_loss(x, AT, (design, towards, validation))
    assert_allclose(outer, 0.5 * np.sum((others @ w - validation) ** 2) / 20, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_with_every_condition(solver, mapping):
    engine = Implicit(accuracy="residual")
    exact = svm(**SMALL, solver="active_set_newton", tol=1e-12)
    values = [hypergradient(exact, AT + move, engine)[0] for move in (1e-4, -1e-4)]
    task = svm(**SMALL, solver=solver, mapping=mapping, tol=1e-7, max_steps=20000)
    _, grad, report = hypergradient(task, AT, engine)
    assert report.status.name in ("converged", "stalled")
    assert_allclose(grad, (values[0] - values[1]) / 2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["solver", "mapping", "form"])
def test_unknown_names_are_refused(name):
    settings: dict[str, Any] = {**SMALL, name: "nope"}
    with pytest.raises(ValueError, match=f"task.{name}=nope: choose one of"):
        svm(**settings)


@pytest.mark.slow
def test_the_baseline_is_the_best_penalty_of_its_grid():
    task = svm(**SMALL, solver="active_set_newton")
    _, held_out = task.batches(jax.random.key(0), 0)
    train = svm(**SMALL).batches(jax.random.key(0), 0)[0]
    found = task.baselines()
    best = jnp.log(found["baseline/theta"])
    params = task.inner.solve(best, train).params
    assert_allclose(found["baseline/validation_loss"], task.outer_loss(params, best, held_out), rtol=1e-5)
    assert_allclose(found["baseline/test/loss"], task.evaluate(params, best)["test/loss"], rtol=1e-5)
