"""The oracle against closed forms: a wrong derivative in the statement does not fool it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.verification.oracle import oracle_of, orthonormal


def task(weight, size=1):
    """w* = 4 / (1 + exp h), g = 1/2 (w* - 1)^2."""
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2 + weight(h) * w**2),
            init=lambda key, h: jnp.zeros(size),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2),
        init_hparams=lambda key: jnp.zeros(size),
        batches=bl.full_batch(4.0, 1.0),
    )


@pytest.mark.slow
def test_it_agrees_with_the_closed_form():
    oracle = oracle_of(task(jnp.exp, 2), jnp.array([0.0, 1.0]), jax.random.key(0))
    w = 4 / (1 + np.exp([0.0, 1.0]))
    exact = (w - 1) * -w * np.exp([0.0, 1.0]) / (1 + np.exp([0.0, 1.0]))
    assert oracle.confirmed and oracle.solved.name == "converged"
    np.testing.assert_allclose(oracle.slopes, exact, rtol=1e-12)
    np.testing.assert_allclose(oracle.differences, exact, rtol=1e-9)
    assert np.linalg.norm(oracle.slopes - exact) <= oracle.uncertainty <= oracle.spread
    np.testing.assert_allclose(oracle.error(jnp.asarray(exact) + jnp.array([3e-3, 4e-3])), 5e-3, rtol=1e-8)


def test_a_dependence_hidden_from_differentiation_shows():
    oracle = oracle_of(task(lambda h: jnp.exp(jax.lax.stop_gradient(h))), jnp.zeros(1), jax.random.key(0))
    assert not oracle.confirmed
    np.testing.assert_allclose(oracle.slopes, -1.0, rtol=1e-9)


def test_many_hyperparameters_are_looked_at_in_some_directions():
    directions = orthonormal(200)
    assert directions.shape == (16, 200)
    np.testing.assert_allclose(directions @ directions.T, np.eye(16), atol=1e-14)
