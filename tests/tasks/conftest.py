"""What the tests of the tasks share: a hypergradient against differences."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

from bilevel.engines.hypergradients import hypergradient


@pytest.fixture
def agrees_with_differences():
    """Compares the slope along a random direction with the central difference of fourth order of the outer loss."""

    def check(task, hparams, rtol, step=1e-3):
        key = jax.random.key(7)
        keys = jax.random.split(key, len(jax.tree.leaves(hparams)))
        keys = jax.tree.unflatten(jax.tree.structure(hparams), list(keys))
        direction = jax.tree.map(lambda leaf, key: jax.random.normal(key, jnp.shape(leaf)), hparams, keys)

        def value(size):
            return float(hypergradient(task, jax.tree.map(lambda h, d: h + size * d, hparams, direction), key=key)[0])

        _, grad, report = hypergradient(task, hparams, key=key)
        slopes = jax.tree.map(lambda g, d: jnp.sum(g * d), grad, direction)
        difference = (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)
        assert report.status.name in ("converged", "stalled")
        assert_allclose(float(sum(jax.tree.leaves(slopes))), difference, rtol=rtol)

    return check
