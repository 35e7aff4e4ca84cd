"""The trust-region step: the optimality conditions of its model, and a decrease from every point that is no minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.kernels.trust_region import Point, Spectrum, damped_inverse, descend, minimiser_within

EIGENVALUES = {"definite": [1.0, 2.0, 5.0], "indefinite": [-2.0, 1.0, 5.0], "singular": [0.0, 1.0, 5.0]}


def symmetric(eigenvalues, seed=0):
    vectors = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return Spectrum(jnp.asarray(eigenvalues), jnp.asarray(vectors))


def matrix_of(spectrum):
    return (spectrum.vectors * spectrum.values) @ spectrum.vectors.T


@pytest.mark.sample(6)
@pytest.mark.parametrize("radius", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("kind", EIGENVALUES)
def test_the_step_satisfies_the_conditions_of_the_model(kind, hard, radius):
    """(H + damping I) d = -g with H + damping I semidefinite, inside of the ball or damped on its border; in the hard
    case the gradient has no part along the least eigenvector."""
    spectrum = symmetric(EIGENVALUES[kind])
    gradient = spectrum.vectors @ jnp.array([0.0 if hard else 0.7, -1.0, 0.4])
    damping, push = minimiser_within(spectrum, gradient, jnp.asarray(radius))
    step = push - damped_inverse(spectrum, damping, gradient)
    matrix = matrix_of(spectrum) + damping * jnp.eye(3)
    assert float(damping) >= 0 and float(jnp.linalg.eigvalsh(matrix)[0]) > -1e-8
    assert float(jnp.linalg.norm(step)) < radius * (1 + 1e-6)
    assert_allclose(matrix @ step, -gradient, atol=1e-6)
    if float(damping) > 1e-8:
        assert_allclose(jnp.linalg.norm(step), radius, rtol=1e-6)


def quadratic(spectrum, center):
    matrix = matrix_of(spectrum)

    def evaluate(x):
        return Point(x, 0.5 * (x - center) @ matrix @ (x - center), matrix @ (x - center))

    return evaluate, matrix


def test_newtons_step_where_the_matrix_is_definite():
    center = jnp.array([1.0, -2.0, 3.0])
    evaluate, matrix = quadratic(symmetric(EIGENVALUES["definite"]), center)
    found = descend(evaluate, evaluate(jnp.zeros(3)), matrix, jnp.asarray(jnp.inf))
    assert bool(found.accepted) and bool(found.whole) and int(found.trials) == 1 and not bool(found.decomposed)
    assert_allclose(found.point.x, center, rtol=1e-12)
    assert_allclose(found.inverse(matrix @ center), center, rtol=1e-12)
    assert float(found.curvature) == 0 and np.isinf(float(found.radius))


def test_a_saddle_is_left_although_its_gradient_is_zero():
    evaluate, matrix = quadratic(symmetric(EIGENVALUES["indefinite"]), jnp.zeros(3))
    found = descend(evaluate, evaluate(jnp.zeros(3)), matrix, jnp.asarray(1.0))
    assert bool(found.accepted) and float(found.point.value) < 0
    assert_allclose(found.curvature, -2.0 / 5.0, rtol=1e-12)


def test_at_a_minimum_nothing_moves():
    evaluate, matrix = quadratic(symmetric(EIGENVALUES["definite"]), jnp.zeros(3))
    found = descend(evaluate, evaluate(jnp.zeros(3)), matrix, jnp.asarray(jnp.inf))
    assert_allclose(found.point.x, 0, atol=1e-15)


def test_a_step_that_is_too_long_is_shortened_until_the_value_falls():
    """sqrt(1 + x^2) from 3: Newton's step overshoots to -27."""
    value = lambda x: jnp.sum(jnp.sqrt(1 + x**2))
    evaluate = lambda x: Point(x, value(x), jax.grad(value)(x))
    start = evaluate(jnp.array([3.0]))
    found = descend(evaluate, start, jax.hessian(value)(start.x), jnp.asarray(jnp.inf))
    assert bool(found.accepted) and int(found.trials) > 1 and not bool(found.whole)
    assert float(found.point.value) < float(start.value)
    assert np.isfinite(float(found.radius))
    assert_allclose(found.point.x, start.x + found.push - found.inverse(start.gradient), rtol=1e-9)


def test_nan_is_never_accepted():
    evaluate = lambda x: Point(x, jnp.sum(x) * jnp.nan, x * jnp.nan)
    found = descend(evaluate, Point(jnp.ones(2), jnp.asarray(2.0), jnp.ones(2)), jnp.eye(2), jnp.asarray(jnp.inf))
    assert not bool(found.accepted)
    assert_allclose(found.point.x, 1)
