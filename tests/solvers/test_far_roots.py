"""Roots from far starts, where the full step goes far beyond the root or out of the domain."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

SOLVERS = [bl.Newton(), bl.Broyden(), bl.SciPy("hybr"), bl.SciPy("lm")]
ROOTS = {
    "exp": (lambda w, h, batch: jnp.exp(w) - h, -8.0, jnp.log, (1e-2, 1.0, 20.0, 1e3)),
    "log": (lambda w, h, batch: jnp.log(w) - h, 5.0, jnp.exp, (-3.0, 0.0, 8.0)),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: getattr(solver, "method", type(solver).__name__))
@pytest.mark.parametrize("name", ROOTS)
def test_far_starts(name, solver):
    residual, start, exact, levels = ROOTS[name]
    inner = bl.InnerProblem.from_residual(residual, lambda key, h: jnp.full(1, start), solver=solver)
    found = jax.jit(jax.vmap(lambda h: inner.solve(h, None)))(jnp.array(levels))
    assert found.status.name == "converged"
    assert_allclose(found.params[:, 0], exact(jnp.array(levels)), rtol=1e-6, atol=1e-6)


def test_steps_that_are_too_long_by_fourteen_orders():
    inner = bl.InnerProblem.from_residual(lambda w, h, batch: jnp.exp(w) - h, lambda key, h: jnp.full(1, -20.0))
    found = inner.solve(1e12, None)
    assert found.status.name == "converged"
    assert_allclose(found.params, jnp.log(1e12), rtol=1e-8)


@pytest.mark.slow
def test_constraints_without_a_feasible_point():
    """Multipliers grow where no point is feasible: that is no divergence, and in the end it is proved."""
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum((w - h) ** 2),
        lambda key, h: jnp.ones(2),
        constraint=bl.Functional(inequality=lambda w, h, batch: jnp.sum(w**2)[None] + 1),
    )
    assert inner.solve(1.0, None).status.name == "infeasible"
