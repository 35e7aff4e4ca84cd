import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.linear_solve import CG, GMRES, Damped, Dense, Operator

SCALES = np.array([0.0, 1.0, 3.0])


@pytest.mark.sample(2)
@pytest.mark.parametrize("inner", [CG(), GMRES(), Dense()])
@pytest.mark.parametrize("sign", [1, -1])
def test_solves_the_damped_system_and_reports_the_residual_of_the_other(inner, sign):
    operator = Operator(lambda x: sign * SCALES * x, symmetric=True, definite=True, sign=sign)
    rhs = jnp.array([1.0, 2.0, 4.0])
    solution = Damped(inner, damping=0.5)(operator, rhs)
    expected = rhs / (sign * (SCALES + 0.5))
    assert solution.status.name == "truncated"
    np.testing.assert_allclose(solution.value, expected, rtol=1e-9)
    true = jnp.linalg.norm(rhs - sign * SCALES * expected) / jnp.linalg.norm(rhs)
    np.testing.assert_allclose(solution.residual, true, rtol=1e-9)


def test_without_damping_it_is_the_inner_solver():
    plain, damped = (solver(lambda x: (SCALES + 1) * x, jnp.ones(3)) for solver in (CG(), Damped(CG(), damping=0.0)))
    assert damped.status.name == "converged" and int(damped.products) == int(plain.products) + 1
    np.testing.assert_array_equal(plain.value, damped.value)


def test_a_failure_of_the_inner_solver_is_passed_on():
    operator = Operator(lambda x: jnp.array([1.0, -1.0, 2.0]) * x)
    assert Damped(CG(), damping=0.1)(operator, jnp.ones(3)).status.name == "indefinite"
