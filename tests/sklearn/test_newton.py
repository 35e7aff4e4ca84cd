"""The small program of a fold: its solution, value and gradient are those of the library's solvers and engines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.sklearn.newton import answer
from bilevel.sklearn.statements import Kind, statement, task_of

N, P = 40, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, P))
NOISY = X @ np.array([1.0, 0.0, -2.0]) + RNG.standard_normal(N)
LABELS = (NOISY > 0).astype(int)
KINDS = {
    "ridge": (Kind("squared", "sum", True, P, 0, False, True), NOISY),
    "lasso": (Kind("squared", "mean", True, P, 0, True, False), NOISY),
    "elastic logistic": (Kind("logistic", "sum", True, P, 0, True, True), LABELS),
    "multinomial": (Kind("multinomial", "sum", True, P, 3, False, True), np.digitize(NOISY, [-1.0, 1.0])),
    "poisson": (Kind("poisson", "mean", True, P, 0, False, True), RNG.poisson(np.exp(0.3 * X[:, 0]))),
    "rows": (Kind("multi_task", "mean", True, P, 2, True, False), np.stack([NOISY, X[:, 1] + NOISY], 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_it_agrees_with_the_library(name):
    kind, y = KINDS[name]
    logs = np.log([0.3, 0.2, 0.05])[:, None] * np.ones((1, max(kind.columns, 1)))
    hparams = {key: jnp.asarray(logs) for key, used in (("l1", kind.l1), ("l2", kind.l2)) if used}
    half = jnp.asarray(np.arange(N) < N // 2, float)
    inner = (jnp.asarray(X), jnp.asarray(y), half)
    outer = (*inner[:2], (1 - half) / jnp.sum(1 - half), jnp.zeros(N), jnp.zeros(()))
    found = jax.jit(lambda h: answer(statement(kind), h, inner, outer, jnp.zeros(np.prod(kind.shape))))(hparams)
    value, gradient, report = bl.hypergradient(task_of(kind), hparams, batch=(inner, outer))
    assert not found.failed
    assert_allclose(found.params.reshape(kind.shape), report.params, atol=1e-8)
    assert_allclose(found.value, value, rtol=1e-8)
    for key in hparams:
        rows = np.sum(found.gradient[key], axis=1) if kind.groups else found.gradient[key]
        assert_allclose(rows, np.sum(gradient[key], axis=1) if kind.groups else gradient[key], atol=1e-7)
