"""A decorated solver is called as its signature says, and its condition gets the same arguments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl


def by_place(w, *args):
    return w**2 - args[0]


def by_name(w, theta):
    return w**2 - theta


class Found(NamedTuple):
    params: Any
    state: Any


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "condition", [by_place, by_name, bl.optimality.Newton(by_place)], ids=["place", "name", "mapping"]
)
def test_keywords_and_the_first_argument_by_its_own_name(condition):
    @bl.custom_root(condition)
    def root(x0, theta):
        return jnp.sqrt(theta)

    calls = [
        lambda theta: root(1.0, theta),
        lambda theta: root(1.0, theta=theta),
        lambda theta: root(x0=1.0, theta=theta),
        lambda theta: root(theta=theta, x0=1.0),
    ]
    for call in calls:
        value, slope = jax.jit(jax.value_and_grad(call))(4.0)
        np.testing.assert_allclose([value, slope], [2.0, 0.25], rtol=1e-12)


@pytest.mark.slow
def test_a_loss_that_takes_its_arguments_by_place():
    @bl.custom_root(bl.optimality.Stationary(lambda w, *args: 0.5 * jnp.sum((w - args[0]) ** 2)))
    def solver(init, theta):
        return theta

    assert float(jax.grad(lambda theta: solver(None, theta=theta))(3.0)) == 1.0


@pytest.mark.slow
def test_names_are_matched_in_any_order_and_defaults_are_those_of_the_solver():
    @bl.custom_root(lambda w, scale, theta: w**2 - theta * scale**2)
    def root(init, theta, scale=3.0, max_steps=10):
        return scale * jnp.sqrt(theta)

    np.testing.assert_allclose(jax.grad(lambda theta: root(None, theta=theta, scale=2.0))(4.0), 0.5)
    np.testing.assert_allclose(jax.grad(lambda theta: root(None, theta=theta))(4.0), 0.75)


@pytest.mark.slow
def test_a_default_of_the_condition_does_not_hide_that_of_the_solver():
    @bl.custom_root(lambda w, theta, scale=1.0: w**2 - theta * scale**2)
    def root(init, theta, scale=3.0):
        return scale * jnp.sqrt(theta)

    np.testing.assert_allclose(jax.grad(lambda theta: root(None, theta))(4.0), 0.75)


def test_arguments_that_do_not_fit_are_refused_in_a_sentence():
    @bl.custom_root(by_name)
    def root(init, theta, max_steps=10):
        return jnp.sqrt(theta)

    with pytest.raises(TypeError, match=r"by_name takes \(theta\) beside the params, and root was called with"):
        root(None, 4.0, max_steps=3)
    with pytest.raises(TypeError, match=r"root\(init, theta, max_steps=10\) is called with other arguments.*theta"):
        root(None)


@pytest.mark.slow
def test_a_named_tuple_stays_one():
    @bl.custom_root(by_name, has_aux=True)
    def root(init, theta):
        return Found(params=jnp.sqrt(theta), state={"steps": 3.0})

    for found in (root(None, 4.0), jax.jit(root)(None, 4.0), jax.vmap(root, (None, 0))(None, jnp.array([4.0]))):
        assert isinstance(found, Found)
    assert float(jax.grad(lambda theta: root(None, theta).params)(4.0)) == 0.25


def test_a_solver_without_aux_that_is_said_to_have_some_is_refused():
    @bl.custom_root(by_name, has_aux=True)
    def root(init, theta):
        return jnp.sqrt(theta)

    with pytest.raises(TypeError, match=r"root is decorated with has_aux=True and returned .* pair"):
        root(None, 4.0)


def test_aux_that_does_not_depend_on_the_arguments_is_an_array():
    root = bl.custom_root(by_name, has_aux=True)(lambda init, theta: (jnp.sqrt(theta), {"steps": jnp.array(3), "n": 4}))
    _, aux = root(None, 4.0)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(aux))
    assert (int(aux["steps"]), int(aux["n"])) == (3, 4)


def test_a_pair_from_a_solver_without_aux_is_refused_in_a_sentence():
    root = bl.custom_root(by_name)(lambda init, theta: (jnp.sqrt(theta), 3))
    with pytest.raises(TypeError, match=r"returns a tuple of 2, .* decorate it with has_aux=True\."):
        root(None, 4.0)


def test_directions_of_other_shapes_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"tangents must be as args: args have the shapes \(\(\),\), and tangents"):
        bl.root_jvp(by_name, 2.0, (4.0,), (1.0, 2.0))
    with pytest.raises(ValueError, match=r"cotangent must be as params: params have the shapes \(\), and cotangent"):
        bl.root_vjp(by_name, 2.0, (4.0,), np.ones(3))
