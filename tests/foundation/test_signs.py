"""Signs from a hash are as good as random ones for our purposes: balanced, and without correlation."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_array_equal

from bilevel.foundation.signs import signs, tree_of_signs

SIZE = 10_000


def test_signs_are_balanced_and_uncorrelated():
    """Means within four standard deviations, also of products of neighbours, and of the signs of two numbers."""
    first, second = (np.asarray(signs((SIZE,), jnp.float64, number)) for number in (0, 1))
    assert set(first) == {-1.0, 1.0}
    pairs = [first, second, first * second, *(first[lag:] * first[:-lag] for lag in (1, 2, 3, 10, 100))]
    assert max(abs(np.mean(pair)) for pair in pairs) < 4 / SIZE**0.5


def test_a_traced_number_gives_the_same_signs():
    assert_array_equal(jax.jit(lambda number: signs((3, 5), jnp.float32, number))(7), signs((3, 5), jnp.float32, 7))


def test_each_leaf_of_a_tree_has_signs_of_its_own_in_its_type():
    like = {"a": np.zeros((4, 8), np.float32), "b": np.zeros(32), "c": np.zeros(())}
    drawn = tree_of_signs(like)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), drawn) == jax.tree.map(
        lambda a: (a.shape, a.dtype), like
    )
    assert np.any(np.asarray(drawn["a"]).ravel() != np.asarray(drawn["b"]))
