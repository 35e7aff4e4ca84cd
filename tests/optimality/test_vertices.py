"""Solutions at a vertex of a polytope, where the derivative of the projection is zero but for rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

POINTS = 10 * np.random.default_rng(0).normal(size=(30, 5))
WEIGHTS = np.random.default_rng(1).uniform(0.1, 2, size=(30, 5))


def slope(project, target, parameter):
    """d/dparameter of the solution, in both modes, by the reduced system: NaN where that is called singular."""
    solution = project(target, parameter)
    mapping = bl.optimality.ProjectedGradient(
        lambda w, parameter: 0.5 * jnp.sum((w - target) ** 2), lambda w, parameter: project(w, parameter)
    )
    forward = bl.root_jvp(mapping, solution, (parameter,), (jnp.ones_like(parameter),))
    (backward,) = bl.root_vjp(mapping, solution, (parameter,), jnp.ones_like(solution))
    return forward, backward


@pytest.mark.sample(1)
@pytest.mark.parametrize("number", range(0, 30, 6))
def test_a_box_section(number):
    """Of one free coordinate, the total moves it alone."""
    weights = jnp.asarray(WEIGHTS[number])
    project = lambda w, total: bl.projections.box_section(w, 0.0, 1.0, weights, total)
    target, total = jnp.asarray(POINTS[number]), 0.37 * jnp.sum(weights)
    forward, backward = jax.jit(lambda target, total: slope(project, target, total))(target, total)
    differences = (project(target, total + 1e-6) - project(target, total - 1e-6)) / 2e-6
    assert_allclose(forward, differences, atol=1e-8)
    assert_allclose(backward, jnp.sum(differences), atol=1e-8)


@pytest.mark.slow
def test_a_transport_polytope():
    """At a permutation the solution does not move with the cost."""
    cost = 20 * jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    half = jnp.ones(2) / 2
    project = lambda w, scale: bl.projections.transport(w, half, half)

    def slopes(scale):
        mapping = bl.optimality.ProjectedGradient(lambda w, scale: 0.5 * jnp.sum((w - scale * cost) ** 2), project)
        return bl.root_jvp(mapping, jnp.eye(2) / 2, (scale,), (1.0,))

    assert_allclose(jax.jit(slopes)(1.0), 0.0, atol=1e-12)


def test_the_derivative_elsewhere_is_untouched():
    """A derivative of the size of 1e-9 is no rounding."""
    mapping = bl.optimality.ProximalGradient(
        lambda w, h: 0.5 * jnp.sum((w - h) ** 2), lambda z, step, h: 1e-9 * z, step_size=1.0
    )
    assert_allclose(bl.root_jvp(mapping, jnp.array([1e-9]), (jnp.array([1.0]),), (jnp.array([1.0]),)), 1e-9, rtol=1e-6)
