"""Neumann series by minibatch products."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.engines.stochastic.neumann import random_term, series


def test_the_mean_of_the_random_term_is_the_series_and_the_series_solves():
    root = np.random.default_rng(0).normal(size=(4, 5))
    matrix, vector = jnp.asarray(root @ root.T / 10), {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5, 3.0])}

    def product(number, tree):
        flat = matrix @ jnp.concatenate([tree["a"], tree["b"]]) * (1 + 0.1 * number)
        return {"a": flat[:2], "b": flat[2:]}

    terms, size = 6, 0.4
    each = jax.vmap(lambda chosen: random_term(product, vector, chosen, terms, size))(jnp.arange(terms))
    mean, total = jax.tree.map(lambda leaf: leaf.mean(0), each), series(product, vector, terms - 1, size)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12), mean, total)

    same = lambda number, tree: product(0, tree)
    solved = series(same, vector, 3000, size)
    flat = jnp.linalg.solve(matrix, jnp.array([1.0, -2.0, 0.5, 3.0]))
    np.testing.assert_allclose(jnp.concatenate([solved["a"], solved["b"]]), flat, rtol=1e-8)
