import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.foundation import vectors as tree

X = {"a": jnp.array([3.0, 0.0]), "b": (jnp.array(4.0), jnp.zeros((0,)))}


def test_dot_norm_and_size():
    assert float(tree.dot(X, X)) == 25 and float(tree.norm(X)) == 5 and tree.size(X) == 3


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1.0, 1e25, 3e37])
def test_normalized_survives_the_range_of_float32(scale):
    vector = jnp.asarray([3.0, -4.0], "float32") * jnp.asarray(scale, "float32")
    unit, (largest, length) = tree.normalized(vector)
    np.testing.assert_allclose(unit, [0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(largest * (length * unit), vector, rtol=1e-6)


def test_normalized_leaves_zero_alone():
    unit, factors = tree.normalized({"a": jnp.zeros(3), "b": jnp.zeros((0,))})
    assert not unit["a"].any() and factors == (1, 1)


def test_leaves_keep_their_dtypes_and_scalars_take_the_widest():
    mixed = tree.as_vector({"a": jnp.ones(2, "float32"), "b": jnp.ones(2, "float64"), "c": 3})
    assert tree.dot(mixed, mixed).dtype == "float64"
    after = tree.plus(mixed, tree.norm(mixed), mixed)
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == ["float32", "float64", "float64"]
    assert tree.epsilon(mixed) == np.finfo("float32").eps


def test_all_finite():
    assert tree.all_finite(X) and not tree.all_finite({"a": X["a"] / 0.0})


def test_a_map_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="needs a square system, but my map maps shapes"):
        tree.apply(lambda x: x[:1], jnp.ones(2), "my map")
