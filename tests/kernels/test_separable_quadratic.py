"""Quadratics plus a separable term: optimality at the result, over terms, ranks and starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.kernels.separable_quadratic import Separable, minimise

TERMS = {
    "l1": (lambda v, s, p: jnp.sign(v) * jnp.maximum(jnp.abs(v) - s * p, 0), lambda x, p: jnp.sum(p * jnp.abs(x))),
    "box": (lambda v, s, p: jnp.clip(v, -p, 2 * p), lambda x, p: jnp.zeros(())),
    "elastic": (
        lambda v, s, p: jnp.sign(v) * jnp.maximum(jnp.abs(v) - s * p, 0) / (1 + s),
        lambda x, p: jnp.sum(p * jnp.abs(x)) + 0.5 * jnp.sum(x**2),
    ),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("rows", [10, 200])  # a singular matrix, and a regular one
@pytest.mark.parametrize("name", TERMS)
def test_optimal(name, rows):
    prox, value = TERMS[name]
    keys = jax.random.split(jax.random.key(rows), 3)
    x = jax.random.normal(keys[0], (rows, 70))
    matrix, slope = x.T @ x / rows, jax.random.normal(keys[1], (70,)) @ (x.T @ x) / rows
    weights = 0.2 + jax.random.uniform(keys[2], (70,))
    term = Separable(prox, weights, lambda point: value(point, weights))
    start = jnp.zeros(70)
    point, cycles = jax.jit(lambda s: minimise(matrix, slope, s, term, 1e-12))(start)
    left = prox(point - (slope + matrix @ point), 1.0, weights) - point
    assert jnp.linalg.norm(left) <= 1e-9 * jnp.linalg.norm(slope)
    assert cycles < 60
    again, cycles = minimise(matrix, slope + matrix @ point, point, term, 1e-1)
    np.testing.assert_allclose(again, point, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_copies_of_columns_take_few_cycles(seed):
    """Words that always come together: the face is singular, and rounding along the copies must not cut steps short."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(100, 60)) @ (np.eye(60) + np.full((60, 60), 1 / 30)) * np.geomspace(0.1, 1, 60)
    x = np.concatenate([mixed, mixed], axis=1)
    matrix = jnp.asarray(x.T @ x / 100)
    slope = -jnp.asarray(x.T @ (x @ random.normal(size=120) + random.normal(size=100)) / 100)
    prox, value = TERMS["l1"]
    weights = jnp.full(120, 0.1)
    term = Separable(prox, weights, lambda point: value(point, weights))
    solve = jax.jit(lambda start: minimise(matrix, slope + matrix @ start, start, term, 1e-12))
    for start in (jnp.zeros(120), jnp.asarray(random.normal(size=120))):
        point, cycles = solve(start)
        left = prox(point - (slope + matrix @ point), 1.0, weights) - point
        assert jnp.linalg.norm(left) <= 1e-12 * jnp.linalg.norm(slope)
        assert cycles <= 3
