"""Kernels of points: the tangent kernel against quadrature and against wide networks, and its derivative at a kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.kernels.of_points import gaussian, neural_tangent

POINTS = np.random.default_rng(0).normal(size=(4, 5))


def moments(covariance, left, right):
    """2 E[relu(u) relu(v)] and 2 E[1(u > 0) 1(v > 0)] by quadrature over the angle at which both are positive."""
    size = np.sqrt(left * right)
    angle = np.arccos(np.clip(covariance / size, -1, 1))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    low, high = angle - np.pi / 2, np.pi / 2
    at = 0.5 * (high - low) * nodes + 0.5 * (high + low)
    integral = lambda values: 0.5 * (high - low) * np.sum(weights * values)
    product = 2 * size * integral(np.cos(at) * np.cos(at - angle)) / np.pi  # the radius gives 2, its density 1 / (2 pi)
    return product, 2 * integral(np.ones_like(at)) / (2 * np.pi)


def by_quadrature(x, z, depth, bias):
    covariance, left, right = (np.mean(pair) + bias**2 for pair in (x * z, x * x, z * z))
    tangent = covariance
    for _ in range(depth):
        product, step = moments(covariance, left, right)
        left, right = moments(left, left, left)[0] + bias**2, moments(right, right, right)[0] + bias**2
        covariance = product + bias**2
        tangent = covariance + tangent * step
    return tangent


@pytest.mark.parametrize(("depth", "bias"), [(1, 0.0), (1, 0.3), (3, 0.1)])
def test_the_recursion_by_quadrature(depth, bias):
    expected = [[by_quadrature(x, z, depth, bias) for z in POINTS] for x in POINTS]
    found = neural_tangent(jnp.asarray(POINTS), jnp.asarray(POINTS), depth=depth, bias=bias, same=True)
    assert_allclose(found, expected, rtol=1e-12)
    across = neural_tangent(jnp.asarray(POINTS[:3]), jnp.asarray(POINTS[3:]), depth=depth, bias=bias)
    assert_allclose(across, found[:3, 3:], rtol=1e-12)


def test_the_kernel_of_wide_networks():
    """The mean over networks of the inner product of the gradients of f(x) and f(z)."""
    width, bias = 400, 0.2
    shapes = [(width, 5), (width, width), (1, width)]

    def output(weights, x):
        state = weights[0][0] @ x / np.sqrt(5) + bias * weights[0][1]
        for matrix, shift in weights[1:]:
            state = np.sqrt(2 / width) * matrix @ jax.nn.relu(state) + bias * shift
        return state[0]

    @jax.jit
    def kernel(key):
        keys = jax.random.split(key, 6)
        weights = [
            (jax.random.normal(keys[2 * at], shape), jax.random.normal(keys[2 * at + 1], shape[:1]))
            for at, shape in enumerate(shapes)
        ]
        grads = jax.vmap(jax.grad(output), (None, 0))(weights, jnp.asarray(POINTS))
        rows = [leaf.reshape(4, -1) for leaf in jax.tree.leaves(grads)]
        return sum(row @ row.T for row in rows)

    found = np.mean([kernel(jax.random.key(seed)) for seed in range(10)], axis=0)
    expected = neural_tangent(jnp.asarray(POINTS), jnp.asarray(POINTS), depth=2, bias=bias, same=True)
    assert_allclose(found, expected, atol=0.03 * np.max(expected))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_derivatives_where_points_coincide(kind):
    """Finite and right: along the diagonal the kernel is smooth, and beside it the kink counts as its mean slope."""
    points = jnp.asarray(np.concatenate([POINTS, POINTS[:1], np.zeros((1, 5))]), kind)
    own = lambda x: neural_tangent(x, x, depth=2, bias=0.1, same=True)
    several = lambda x: jnp.stack(
        [own(x), neural_tangent(x, points, depth=2, bias=0.0), gaussian(x, x), gaussian(x, points)]
    )
    value, slope = jax.jit(lambda x: (several(x), jax.jacrev(several)(x)))(points)
    assert value.dtype == slope.dtype == kind
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    tangent = jax.jvp(lambda x: jnp.diag(own(x)), (points,), (jnp.ones_like(points),))[1]
    step = 1e-6
    twice = np.asarray(points, float)
    difference = [
        (by_quadrature(x + step, x + step, 2, 0.1) - by_quadrature(x - step, x - step, 2, 0.1)) / (2 * step)
        for x in twice
    ]
    assert_allclose(tangent, difference, rtol=1e-7 if kind == "float64" else 1e-4, atol=1e-5)


def test_derivatives_off_the_diagonal():
    weigh = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)))
    total = lambda x: jnp.sum(weigh * neural_tangent(x, x, depth=2, bias=0.1, same=True))
    points, step = jnp.asarray(POINTS), 1e-6
    slope = jnp.vdot(jax.grad(total)(points), jnp.sin(points))
    difference = (total(points + step * jnp.sin(points)) - total(points - step * jnp.sin(points))) / (2 * step)
    assert_allclose(slope, difference, rtol=1e-7)


def test_the_gaussian_kernel():
    expected = np.exp(-((POINTS[:, None] - POINTS[None]) ** 2).sum(axis=2) / (2 * 5 * 0.7**2))
    assert_allclose(gaussian(jnp.asarray(POINTS), jnp.asarray(POINTS), 0.7), expected, rtol=1e-12)
