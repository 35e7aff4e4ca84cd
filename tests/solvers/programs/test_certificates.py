"""What is said of problems constrained by functions that have no solution, and never of those that have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.optimality import PrimalDual
from bilevel.solvers.programs.stated_by_functions import program_of


def solve(loss, n, dtype=jnp.float64, **rows):
    constraint = bl.Functional(**{name: lambda w, h, batch, rule=rule: rule(w) for name, rule in rows.items()})
    inner = bl.InnerProblem(
        lambda w, h, batch: loss(w),
        lambda key, h: jnp.zeros(n, dtype),
        constraint=constraint,
        solver=bl.InteriorPoint(),
    )
    return inner.solve(jnp.zeros((), dtype), None)


@pytest.mark.slow
def test_a_stationary_point_of_nonconvex_constraints_is_no_proof():
    """HS61 from 0, where the rows of the constraints are dependent, is feasible; it was called infeasible."""
    found = solve(
        lambda x: 4 * x[0] ** 2 + 2 * x[1] ** 2 + 2 * x[2] ** 2 - 33 * x[0] + 16 * x[1] - 24 * x[2],
        3,
        equality=lambda x: jnp.stack([3 * x[0] - 2 * x[1] ** 2 - 7, 4 * x[0] - x[2] ** 2 - 11]),
    )
    assert found.status.name == "converged"
    assert_allclose(found.params, [5.32677016, -2.11899864, 3.21046424], atol=1e-6)  # the published minimiser


@pytest.mark.slow
def test_contradicting_convex_quadratics_are_proved():
    found = solve(jnp.sum, 2, inequality=lambda w: jnp.stack([jnp.sum(w**2) - 1, 3 - w[0]]))
    assert found.status.name == "infeasible"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_solutions_of_size_1e6_are_found(dtype):
    """In single precision they were called unbounded, beyond a radius of 600."""
    found = solve(lambda w: -jnp.sum(w), 1, dtype, inequality=lambda w: w - 1e6)
    assert found.status.ok
    assert_allclose(found.params, [1e6], rtol=1e-5)
    assert solve(lambda w: 0.5 * jnp.sum((w - 1e6) ** 2), 2, dtype, inequality=lambda w: -w).status.ok


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_proofs_do_not_depend_on_units(dtype, scale):
    assert solve(lambda w: -scale * jnp.sum(w), 2, dtype, inequality=lambda w: -scale * w).status.name == "unbounded"
    rows = lambda w: jnp.stack([w[0] / scale - scale, 2 * scale - w[0] / scale])
    assert solve(lambda w: jnp.sum(w**2), 1, dtype, inequality=rows).status.name == "infeasible"


def test_degrees_are_read_from_the_programs_of_the_derivatives():
    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
    rows = lambda w: [w @ matrix @ w, jnp.exp(w[:1]), w[0] * w[1], jnp.float64(3), matrix @ w - 1]
    inner = bl.InnerProblem(
        lambda w, h, batch: jnp.sum(w**2),
        lambda key, h: jnp.ones(2),
        constraint=bl.Functional(lambda w, h, batch: matrix @ w - 1, lambda w, h, batch: rows(w)),
    )
    point = PrimalDual(jnp.ones(2), jnp.zeros(2), jax.tree.map(jnp.zeros_like, rows(jnp.ones(2))))
    program, at = program_of(inner.at(None, None), point)
    found = program.degrees(at.primal)
    assert (found.loss, found.equality.tolist()) == (2, [1, 1])
    assert found.inequality.tolist() == [2, 3, 2, 1, 1, 1]
