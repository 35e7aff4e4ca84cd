"""FIRE: the minimum of smooth losses, refusal of penalties, and derivatives of its minimum."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

CURVATURES = jnp.array([0.3, 1.0, 2.0])


def inner(**settings):
    def loss(w, h, batch):
        return 0.5 * jnp.sum(CURVATURES * (w - h) ** 2) + 0.25 * jnp.sum(w**4)

    return bl.InnerProblem(loss=loss, init=lambda key, h: jnp.ones(3), **settings)


@pytest.mark.slow
def test_the_minimum_and_its_derivative_are_those_of_newton():
    target = jnp.array([1.0, -2.0, 0.5])
    solve = lambda solver: lambda h: inner(solver=solver).solve(h, None).params
    fire, newton = solve(bl.FIRE(tol=1e-12)), solve(bl.Newton(tol=1e-14))
    assert_allclose(fire(target), newton(target), atol=1e-10)
    assert_allclose(jax.jacobian(fire)(target), jax.jacobian(newton)(target), atol=1e-9)


def test_status_and_counts():
    solution = inner(solver=bl.FIRE(tol=1e-6)).solve(jnp.zeros(3), None)
    assert solution.status.name == "converged"
    assert int(solution.counts.gradients) >= int(solution.steps) > 10
    assert inner(solver=bl.FIRE(tol=1e-12, max_steps=5)).solve(jnp.zeros(3), None).status.name == "max_steps"


def test_a_penalty_is_refused():
    with pytest.raises(ValueError, match="bl.FIRE minimises smooth losses only and would ignore L1"):
        inner(solver=bl.FIRE(), penalty=bl.L1(weight=0.1)).solve(jnp.zeros(3), None)
