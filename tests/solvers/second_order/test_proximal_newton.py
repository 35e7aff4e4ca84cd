"""Proximal Newton steps, alone and on working sets: the solution of the plain method, jit, vmap, float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import bilevel as bl

KEYS = jax.random.split(jax.random.key(2), 2)
SAMPLES = 30


@functools.cache
def data(features, sparse=False):
    with jax.enable_x64(True):
        x = jax.random.normal(KEYS[0], (SAMPLES, features))
        x = x * (jax.random.uniform(KEYS[1], x.shape) < 0.3) if sparse else x
        return x, jnp.sign(x[:, 0] - x[:, 1] + 0.3)


LOSSES = {
    "squares": lambda z, w, h, batch: 0.5 * jnp.mean((z - batch[1]) ** 2),
    "logistic": lambda z, w, h, batch: jnp.mean(jnp.logaddexp(0.0, -batch[1] * z)) + 0.01 * jnp.sum(w**2),
}
PENALTIES = {"l1": bl.L1(weight=jnp.exp), "box": bl.Box(lower=-0.05, upper=lambda h: jnp.exp(h))}


def problem(kind, penalty, features, solver):
    term = PENALTIES[penalty]
    field = "constraint" if penalty == "box" else "penalty"
    return bl.InnerProblem(
        loss=bl.Linear(lambda batch: batch[0], LOSSES[kind]),
        init=lambda key, h: jnp.zeros(features),
        solver=solver,
        **{field: term},
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_solution_of_the_plain_method(kind, penalty):
    batch = data(20)
    found = problem(kind, penalty, 20, bl.ProximalNewton(tol=1e-13)).solve(-2.5, batch)
    plain = problem(kind, penalty, 20, bl.ActiveSetNewton(tol=1e-13)).solve(-2.5, batch)
    assert found.status.name == "converged"
    np.testing.assert_allclose(found.params, plain.params, atol=1e-10)


@pytest.mark.slow
@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("sparse", [False, True])
def test_on_working_sets(kind, sparse):
    x, y = data(160, sparse)
    design = BCOO.fromdense(x) if sparse else x
    solver = bl.WorkingSet(bl.ProximalNewton(), sizes=(32,), tol=1e-11)
    found = jax.jit(problem(kind, "l1", 160, solver).solve)(-2.5, (design, y))
    plain = problem(kind, "l1", 160, bl.ActiveSetNewton(tol=1e-13)).solve(-2.5, (x, y))
    assert found.status.name == "converged"
    np.testing.assert_allclose(found.params, plain.params, atol=1e-8)


@pytest.mark.slow
def test_vmap():
    solver = bl.WorkingSet(bl.ProximalNewton(), sizes=(8, 32), tol=1e-11)
    inner, hparams = problem("squares", "l1", 160, solver), jnp.array([-1.5, -2.5])
    batched = jax.vmap(lambda h: inner.solve(h, data(160)).params)(hparams)
    for h, params in zip(hparams, batched, strict=True):
        np.testing.assert_allclose(params, inner.solve(h, data(160)).params, atol=1e-10)


@pytest.mark.slow
def test_float32():
    with jax.enable_x64(False):
        batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), data(160))
        solver = bl.WorkingSet(bl.ProximalNewton(), sizes=(8, 32), tol=1e-5)
        found = problem("squares", "l1", 160, solver).solve(jnp.float32(-2.5), batch)
    assert found.status.name in ("converged", "stalled") and found.params.dtype == jnp.float32


def test_refused():
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.sum(w**2),
        init=lambda key, h: jnp.zeros((2, 3)),
        penalty=bl.GroupLasso(weight=1.0),
        solver=bl.ProximalNewton(),
    )
    with pytest.raises(ValueError, match="one vector and a separable penalty"):
        inner.solve(0.0, None)
