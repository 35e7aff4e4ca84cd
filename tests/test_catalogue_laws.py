"""The laws that every projection and proximal operator obeys, over the table of `scripts/catalogue.py`."""

import functools
from typing import Any

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue_sets import SETS

from bilevel.projections import kinks as kinks_of_sets
from bilevel.prox import kinks as kinks_of_proxes

QUICK = [
    pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.slow else []) for entry in catalogue.ENTRIES
]
ALL = [pytest.param(entry, id=entry.name) for entry in catalogue.ENTRIES]
EUCLIDEAN = [pytest.param(entry, id=entry.name) for entry in SETS if not entry.name.endswith("_kl")]


@functools.cache
def compiled(entry):
    return jax.jit(entry.function)


def near(entry, count=3):
    """Some points near the sample point of an entry."""
    point = entry.args[0]
    return point + 0.3 * np.random.default_rng(0).normal(size=(count, *point.shape))


@pytest.mark.parametrize("entry", ALL)
def test_the_value_is_exact(entry):
    value = np.asarray(compiled(entry)(*entry.args))
    assert entry.certificate(value, *entry.args) < 1e-12


@pytest.mark.parametrize("entry", EUCLIDEAN)
def test_projections_are_idempotent(entry):
    once = compiled(entry)(*entry.args)
    np.testing.assert_allclose(compiled(entry)(once, *entry.args[1:]), once, atol=1e-12)


@pytest.mark.parametrize("entry", QUICK)
def test_the_jacobian_in_every_argument_is_exact_in_both_modes(entry):
    measured = catalogue.measure(entry)
    assert measured.value < 1e-12
    assert measured.jacobian < 1e-8
    assert measured.modes < 1e-13
    assert 0 < measured.rank
    assert measured.rank < measured.columns or entry.smooth


@pytest.mark.slow
@pytest.mark.parametrize("entry", ALL)
def test_a_batch_is_a_loop(entry):
    points = near(entry)
    batch = jax.vmap(entry.function, in_axes=(0, *[None] * (len(entry.args) - 1)))(points, *entry.args[1:])
    for point, result in zip(points, batch, strict=True):
        np.testing.assert_allclose(result, compiled(entry)(point, *entry.args[1:]), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ALL)
def test_compiled_is_eager(entry):
    np.testing.assert_allclose(entry.function(*entry.args), compiled(entry)(*entry.args), atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ALL)
def test_float32_stays_float32_and_is_as_exact_as_that_allows(entry):
    exact = np.asarray(compiled(entry)(*entry.args))
    jacobian = np.asarray(jax.jit(jax.jacfwd(entry.function))(*entry.args))
    with jax.enable_x64(False):
        args = [np.float32(arg) for arg in entry.args]
        single = jax.jit(entry.function)(*args)
        single_jacobian = jax.jit(jax.jacrev(entry.function))(*args)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, atol=1e-5)
    np.testing.assert_allclose(single_jacobian, jacobian, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ALL)
def test_second_derivatives_are_exact_in_both_orders(entry):
    """Of a function with a curvature of its own, so that the result is nowhere trivially zero."""

    def scalar(point, *rest):
        return jnp.sum(jnp.sin(entry.function(point, *rest)))

    forward_over_reverse = jax.jit(jax.jacfwd(jax.jacrev(scalar)))(*entry.args)
    reverse_over_forward = jax.jit(jax.jacrev(jax.jacfwd(scalar)))(*entry.args)
    gradient = jax.jit(jax.grad(scalar))
    step = 1e-5
    point, size = entry.args[0], entry.args[0].size
    for i, direction in enumerate(np.eye(size).reshape(size, *point.shape)):
        ends = [np.asarray(gradient(point + way * step * direction, *entry.args[1:])) for way in (1, -1)]
        difference = ((ends[0] - ends[1]) / (2 * step)).ravel()
        column = np.asarray(forward_over_reverse).reshape(size, size)[:, i]
        np.testing.assert_allclose(column, difference, atol=1e-7)
    np.testing.assert_allclose(forward_over_reverse, reverse_over_forward, atol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("entry", QUICK)
def test_a_batch_promotes_no_rank_and_leaks_nothing(entry):
    """Both checks act while a function is traced, so nothing is compiled."""
    args = [near(entry), *entry.args[1:]]
    gradient = jax.grad(lambda *args: jnp.sum(entry.function(*args)), argnums=tuple(range(len(args))))
    with jax.numpy_rank_promotion("raise"), jax.checking_leaks():
        value = jax.eval_shape(entry.function, *args)
        slopes = jax.eval_shape(gradient, *args)
    assert value.shape == args[0].shape
    assert [slope.shape for slope in slopes] == [arg.shape for arg in args]


def kinks_of(entry) -> Any:
    """The distances to the kinks, None where the catalogue states none of that name."""
    module = kinks_of_proxes if entry.name.startswith("prox.") else kinks_of_sets
    return getattr(module, entry.name.removeprefix("prox."), None)


OF_A_VECTOR = ("l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "halfspace", "prox.l_inf")
WITHOUT_BATCH = (*OF_A_VECTOR, "sparse_simplex")  # the last takes a number that its entry hides


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=entry.name)
        for entry in catalogue.ENTRIES
        if kinks_of(entry) and entry.name not in WITHOUT_BATCH
    ],
)
def test_kinks_of_a_batch_promote_no_rank(entry):
    with jax.numpy_rank_promotion("raise"):
        distances = jax.eval_shape(kinks_of(entry), near(entry), *entry.args[1:])
    assert distances.shape[0] == 3
