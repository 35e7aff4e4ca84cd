"""A change of scale under which a badly scaled problem is a well scaled one, and the same one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel.solvers.second_order.coordinate_scales import Scaled, equilibrium, scaled, times

SIZES = np.array([1e-3, 1.0, 1e3, 10.0])
RNG = np.random.default_rng(0)
HALF = RNG.normal(size=(4, 4))
HESSIAN = SIZES[:, None] * (HALF @ HALF.T + 4 * np.eye(4)) * SIZES[None, :]
INNER = bl.InnerProblem(
    loss=lambda w, h, batch: 0.5 * w @ HESSIAN @ w - jnp.sum(SIZES * w),
    init=lambda key, h: jnp.zeros(4),
    penalty=bl.L1(weight=0.3),
)
INSTANCE = INNER.at(jnp.zeros(()), None)


def test_the_scaled_hessian_has_rows_of_one_length():
    scale = equilibrium(INSTANCE, jnp.zeros(4))
    lengths = jnp.linalg.norm(scale[:, None] * HESSIAN * scale[None, :], axis=1)
    assert float(jnp.max(lengths) / jnp.min(lengths)) < 10
    assert float(jnp.max(jnp.linalg.norm(HESSIAN, axis=1)) / jnp.min(jnp.linalg.norm(HESSIAN, axis=1))) > 1e3


def test_a_well_scaled_problem_is_left_alone():
    even = bl.InnerProblem(loss=lambda w, h, b: 0.5 * w @ w, init=lambda k, h: jnp.zeros(4), penalty=bl.L1(weight=0.3))
    assert_allclose(equilibrium(even.at(jnp.zeros(()), None), jnp.zeros(4)), 1.0)
    tree = bl.InnerProblem(loss=lambda w, h, b: jnp.sum(w["a"] ** 2), init=lambda k, h: {"a": jnp.zeros(2)})
    scale = equilibrium(tree.at(jnp.zeros(()), None), {"a": jnp.zeros(2)})
    assert_allclose(scale["a"], 1.0)


@pytest.mark.slow
def test_both_problems_have_the_same_objective_and_residual_zero():
    scale = equilibrium(INSTANCE, jnp.zeros(4))
    other = scaled(INSTANCE, scale)
    w = jnp.asarray(RNG.normal(size=4))
    u = times(w, scale, inverse=True)
    assert_allclose(times(u, scale), w, rtol=1e-15)
    assert_allclose(other.objective(u), INSTANCE.objective(w), rtol=1e-12)
    solution = INNER.with_solver(bl.ActiveSetNewton(tol=1e-12)).solve(jnp.zeros(()), None).params
    residual = other.residual(times(solution, scale, inverse=True))
    assert float(jnp.linalg.norm(residual)) < 1e-8


def test_the_prox_of_the_scaled_penalty_minimises_its_own_objective():
    penalty, point, step = Scaled(bl.L1(weight=0.3), jnp.asarray(SIZES)), jnp.array([0.4, -2.0, 1e-4, 0.0]), 0.7
    found = penalty.prox(point, step, jnp.zeros(()))
    objective = lambda u: 0.5 * jnp.sum((u - point) ** 2) / step + penalty.value(u, jnp.zeros(()))
    for direction in np.random.default_rng(1).normal(size=(20, 4)):
        assert float(objective(found)) <= float(objective(found + 1e-4 * jnp.asarray(direction))) + 1e-14
    assert_allclose(jax.jit(penalty.prox)(point, step, jnp.zeros(())), found, rtol=1e-14)
