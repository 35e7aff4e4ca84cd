import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.foundation import trees

FLOAT64 = (1e308, 8e307, 1e200, 3.0, 1e-200, 1e-300)


@pytest.mark.parametrize("size", FLOAT64)
def test_the_norm_neither_overflows_nor_underflows(size):
    tree = {"a": jnp.array([0.6 * size, 0.0]), "b": jnp.array(-0.8 * size)}
    np.testing.assert_allclose(jax.jit(trees.norm)(tree), size, rtol=1e-14)


@pytest.mark.parametrize("size", [3e38, 1e25, 1e-25, 1e-37])
def test_nor_in_float32(size):
    found = jax.jit(trees.norm)([jnp.array([0.6 * size, 0.8 * size], jnp.float32)])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, size, rtol=1e-6)


def test_the_norm_of_nothing_and_of_what_is_not_a_number():
    assert float(trees.norm([])) == float(trees.norm(jnp.zeros((3, 0)))) == float(trees.norm(jnp.zeros(3))) == 0
    assert np.isposinf(trees.norm(jnp.array([1.0, -jnp.inf])))
    assert np.isnan(trees.norm(jnp.array([1.0, jnp.nan])))
    np.testing.assert_allclose(jax.grad(trees.norm)(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-14)


def test_integers_are_refused_by_their_place():
    with pytest.raises(ValueError, match=r"hparams\['a'\]\[1\] is of type int\d\d, in which nothing has a derivative"):
        trees.differentiable({"a": [1.0, jnp.arange(2)]}, "hparams")


def test_strong_arrays_are_passed_on_and_weak_ones_converted():
    array, (converted, number) = jnp.ones(3), trees.strong([jnp.full(3, 1.0), 1.0])
    assert trees.strong(array) is array
    assert not converted.aval.weak_type and not number.aval.weak_type


def test_constant_zeros_have_norm_zero():
    """The compiler knows the entries then, and moves the scale out of the sum."""
    assert float(jax.jit(lambda c: trees.norm((jnp.zeros(3), c * jnp.zeros(2))))(1.0)) == 0.0
    assert float(jax.jit(lambda c: c * trees.norm(jnp.zeros(3)))(1.0)) == 0.0


def test_complex_numbers_are_refused_by_their_place():
    with pytest.raises(ValueError, match=r"init\(key, hparams\)\['a'\] is of type complex128.*two arrays"):
        trees.differentiable({"a": jnp.ones(2) + 1j}, "init(key, hparams)")


def test_an_inner_product_keeps_its_type():
    assert trees.dot([jnp.ones(2, jnp.float32)] * 2, [jnp.ones(2, jnp.float32)] * 2).dtype == jnp.float32
