"""Bounds of norms, to which CVXPY gives an unknown of their own, do not cost the derivative of the solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import bilevel as bl

cp = pytest.importorskip("cvxpy")


def linear_over_a_ball(bound):
    """min towards'x with ||x - center|| <= 1, and sum(x) <= bound: x = center - towards / ||towards|| where the sum
    allows it. The objective is linear, so that the program is one over cones."""
    x, center, towards = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
    constraints = [cp.norm(x - center) <= 1, cp.norm(x) <= bound]
    return cp.Problem(cp.Minimize(towards @ x), constraints), [center, towards], [x]


def closed_form(center, towards):
    return center - towards / jnp.linalg.norm(towards)


@pytest.mark.slow
def test_a_bound_that_holds_with_room_leaves_a_derivative():
    layer = bl.from_cvxpy(*linear_over_a_ball(50.0))
    at = jnp.array([0.3, -0.2, 0.5]), jnp.array([1.0, 2.0, -1.0])
    solution = layer.solve(*at)
    assert solution.status.name == "converged" and solution.error_grade == "estimate"
    assert_allclose(solution.params[0], closed_form(*at), atol=1e-9)
    for argument in (0, 1):
        found = jax.jacobian(lambda *at: layer(*at)[0], argnums=argument)(*at)
        assert_allclose(found, jax.jacobian(closed_form, argnums=argument)(*at), atol=1e-8)


def test_each_bound_takes_an_unknown_and_a_row_away():
    problem, parameters, variables = linear_over_a_ball(50.0)
    form = bl.from_cvxpy(problem, parameters, variables).form
    data = problem.get_problem_data(cp.CLARABEL, enforce_dpp=True, solver_opts={"use_quad_obj": False})[0]
    program = data["param_prob"]
    assert form.data[0].shape == (program.constr_size - 2, program.x.size - 2)


def test_a_bound_that_is_tight_and_depends_on_a_parameter():
    """min ||x - point|| with 2 ||x|| + 1 <= radius: x is the multiple of point of length (radius - 1) / 2."""
    x, point, radius = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.norm(x - point)), [2 * cp.norm(x) + 1 <= radius])
    layer = bl.from_cvxpy(problem, [point, radius], [x])
    at = jnp.array([3.0, 4.0]), jnp.array(2.0)
    expected = lambda point, radius: 0.5 * (radius - 1) * point / jnp.linalg.norm(point)
    assert_allclose(layer(*at)[0], expected(*at), atol=1e-9)
    for argument in (0, 1):
        found = jax.jacobian(lambda *at: layer(*at)[0], argnums=argument)(*at)
        assert_allclose(found, jax.jacobian(expected, argnums=argument)(*at), atol=1e-8)


@pytest.mark.slow
def test_an_unknown_of_the_user_stays():
    """t is asked for, although it could be folded: the least t with ||x|| <= t costs nothing here, so any will do."""
    x, t, point = cp.Variable(2), cp.Variable(), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x - point)), [cp.SOC(t, x), t <= 3])
    x_only, both = bl.from_cvxpy(problem, [point], [x]), bl.from_cvxpy(problem, [point], [x, t])
    assert both.form.data[0].shape[1] == x_only.form.data[0].shape[1] + 1
    value, height = both(jnp.array([1.0, 1.0]))
    assert_allclose(value, [1.0, 1.0], atol=1e-6)
    assert np.sqrt(2) - 1e-6 <= height <= 3 + 1e-6


@pytest.mark.slow
def test_a_factor_that_depends_on_a_parameter_is_left_alone():
    x, t, point, factor = cp.Variable(2), cp.Variable(), cp.Parameter(2), cp.Parameter(pos=True)
    problem = cp.Problem(cp.Minimize(point @ x), [cp.SOC(t, x), factor * t <= 3])
    layer = bl.from_cvxpy(problem, [point, factor], [x])
    assert_allclose(layer(jnp.array([3.0, 4.0]), jnp.array(1.5))[0], [-1.2, -1.6], atol=1e-8)
