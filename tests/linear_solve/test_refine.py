import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.foundation.status import Code
from bilevel.linear_solve import CG, Dense, Operator
from bilevel.linear_solve.refine import Advance, attainable, judge, refine

MATRIX = np.array([[4.0, 1.0], [1.0, 3.0]])
RHS = np.array([1.0, 2.0])


def _sloppy(error):
    """A method that solves to a relative error, and believes that it is exact."""

    def advance(rhs, target, max_steps):
        one = jnp.ones((), jnp.int32)
        return Advance(
            (1 + error) * jnp.linalg.solve(MATRIX, rhs), one, one, one * Code.converged, jnp.ones_like(target)
        )

    return advance


def test_runs_until_the_true_residual_meets_the_tolerance():
    solution = refine(_sloppy(1e-3), Operator(lambda x: MATRIX @ x), RHS, None, 1e-10, 100)
    assert solution.status.name == "converged" and int(solution.products) == 2 * 4  # 1e-12 takes four runs
    np.testing.assert_allclose(solution.value, jnp.linalg.solve(MATRIX, RHS), rtol=1e-10)


@pytest.mark.parametrize("error", [0.9, 1.5])
def test_a_method_that_believes_too_much_is_not_believed(error):
    solution = refine(_sloppy(error), Operator(lambda x: MATRIX @ x), RHS, None, 1e-10, 100, otherwise=Code.diverged)
    assert solution.status.name == "diverged" and int(solution.products) == 2
    np.testing.assert_allclose(float(solution.residual), min(error, 1.0))  # what is worse than zero is not kept


def test_the_tolerance_has_a_floor():
    assert float(attainable(1e-10, jnp.ones(2))) == 1e-10
    np.testing.assert_allclose(attainable(1e-10, jnp.ones(2, "float32")), 10 * np.finfo("float32").eps)


@pytest.mark.parametrize(
    ("residual", "image", "code", "expected"),
    [
        (1e-11, 0.0, Code.singular, Code.converged),
        (1e-9, 1e7, Code.singular, Code.stalled),
        (1e-9, 1e7, Code.max_steps, Code.max_steps),  # it might have gone on
        (1e-9, 1.0, Code.singular, Code.singular),
        (0.3, 1e30, Code.singular, Code.singular),  # a solution that explodes is no excuse
        (jnp.nan, 1.0, Code.singular, Code.nonfinite),
        (jnp.inf, 1.0, Code.singular, Code.nonfinite),
    ],
)
def test_judge(residual, image, code, expected):
    assert judge(jnp.asarray(residual), jnp.asarray(1e-10), jnp.asarray(image), code, jnp.ones(2)) == expected


@pytest.mark.parametrize("solver", [CG(), Dense()])
def test_a_solution_out_of_the_range_of_float32_is_nonfinite(solver):
    solution = solver(lambda x: jnp.asarray(1e-5, "float32") * x, jnp.full(2, 1e36, "float32"))
    assert solution.status.name == "nonfinite" and jnp.isinf(solution.value).all()


@pytest.mark.parametrize("entry", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("solver", [CG(), Dense()])
def test_a_right_hand_side_that_is_not_finite(solver, entry):
    solution = solver(lambda x: MATRIX @ x, np.array([entry, 1.0]))
    assert solution.status.name == "nonfinite" and not jnp.isfinite(solution.value).any()


def test_nothing_to_solve():
    solution = CG()(lambda x: x, jnp.zeros((0,)))
    assert solution.status.name == "converged" and solution.value.shape == (0,)


def test_a_sharded_solve_equals_the_unsharded_one():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rhs = jnp.arange(1.0, 1.0 + 8 * len(jax.devices()))
    scales = 1.0 + jnp.arange(rhs.size) % 5
    solve = jax.jit(lambda b: CG()(lambda x: scales * x, b))
    solution = solve(jax.device_put(rhs, sharding))
    np.testing.assert_allclose(solution.value, rhs / scales, rtol=1e-10)
