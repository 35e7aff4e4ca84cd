"""Semismooth Newton: starts far from the solution."""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl


@pytest.mark.slow
def test_a_start_with_a_huge_residual_is_no_measure_of_the_solution():
    """At w = 35 the gradient is 2e15, beside which any later point seems solved, and the curvature as large."""
    targets, weight = jnp.array([5.0, 3.0, 1.05]), 0.1
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: jnp.sum(jnp.exp(w) - targets * w),
        init=lambda key, h: jnp.full(3, 35.0),
        penalty=bl.GroupLasso(weight),
        solver=bl.ActiveSetNewton(),
    )
    found = inner.solve(None, None)
    assert found.status.ok
    forces = targets - jnp.exp(found.params)
    np.testing.assert_allclose(forces, weight * found.params / jnp.linalg.norm(found.params), atol=1e-6)
