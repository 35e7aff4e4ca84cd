"""Operator splitting on programs stated by matrices, by closed forms: projections on boxes, simplices and balls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO
from numpy.testing import assert_allclose

import bilevel as bl
from bilevel import cones
from bilevel.foundation.status import Code
from bilevel.solvers.programs.split_program import quadratic, split_program
from bilevel.solvers.programs.stated_by_arrays import ConeProgram, groups_of, program_residual

POINT = np.array([0.9, -0.4, 0.5, 0.2])
EYE = np.eye(4)


def stated(rows, b, cone, point=POINT, dtype="float64"):
    """min ||x - point||^2 / 2 subject to b - rows x in the cone."""
    P, q, A, b = (jnp.asarray(part, dtype) for part in (EYE, -point, rows, b))
    return ConeProgram(P, q, A, b, cone)


PROJECTIONS = {
    "simplex": (
        (np.concatenate([np.ones((1, 4)), -EYE]), np.eye(5)[0], cones.Product(cones.Zero(1), cones.NonNegative(4))),
        bl.projections.simplex,
    ),
    "box": (
        (np.concatenate([EYE, -EYE]), np.full(8, 0.3), cones.NonNegative(8)),
        lambda x: bl.projections.box(x, -0.3, 0.3),
    ),
    "ball": (
        (np.concatenate([np.zeros((1, 4)), -EYE]), np.eye(5)[0] / 2, cones.SecondOrder(5)),
        lambda x: bl.projections.l2_ball(x, 0.5),
    ),
    "free rows": ((EYE, np.zeros(4), cones.Free(4)), lambda x: x),
}


def solved(program, settings=bl.OperatorSplitting(), start=None):
    run = lambda q, b: split_program(program._replace(q=q, b=b), settings, start)
    return jax.jit(run)(program.q, program.b)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_solution_is_the_projection(name):
    arguments, project = PROJECTIONS[name]
    program = stated(*arguments)
    found = solved(program)
    assert int(found.code) == Code.converged
    assert_allclose(found.x, project(jnp.asarray(POINT)), atol=1e-9)
    assert_allclose(found.x - POINT + program.A.T @ found.y, 0, atol=1e-9)
    assert_allclose(program.A @ found.x + found.s, program.b, atol=1e-9)
    assert_allclose(found.y @ found.s, 0, atol=1e-9)


def test_in_single_precision():
    arguments, project = PROJECTIONS["simplex"]
    found = solved(stated(*arguments, dtype="float32"), bl.OperatorSplitting(tol=1e-5))
    assert found.x.dtype == "float32" and int(found.code) == Code.converged
    assert_allclose(found.x, project(jnp.asarray(POINT)), atol=1e-4)


@pytest.mark.slow
def test_lanes_of_a_batch_are_solved_each_by_itself():
    arguments, project = PROJECTIONS["simplex"]
    program = stated(*arguments)
    points = np.stack([POINT, 3 * POINT, -POINT])
    run = jax.vmap(lambda q: split_program(program._replace(q=q), bl.OperatorSplitting(), None))
    assert_allclose(jax.jit(run)(-points).x, jax.vmap(project)(points), atol=1e-8)


@pytest.mark.slow
def test_a_sparse_program_has_no_factor_and_the_same_solution():
    arguments, project = PROJECTIONS["simplex"]
    dense = stated(*arguments)
    store = lambda matrix: BCOO.from_scipy_sparse(scipy.sparse.csr_array(matrix))
    sparse = dense._replace(P=store(dense.P), A=store(dense.A))
    assert quadratic(sparse, 100).matrix is None
    assert quadratic(dense, 100).matrix is not None and quadratic(dense, 3).matrix is None
    assert_allclose(solved(sparse).x, project(jnp.asarray(POINT)), atol=1e-8)


@pytest.mark.slow
def test_from_its_solution_it_takes_no_step():
    program = stated(*PROJECTIONS["simplex"][0])
    found = solved(program)
    assert int(found.steps) > 0
    assert int(solved(program, start=found).steps) == 0


def test_the_error_vanishes_at_the_solution_and_nowhere_else():
    program = stated(*PROJECTIONS["box"][0])
    found = solved(program)
    at = lambda x, y: float(program_residual(program, x, y))
    assert at(found.x, found.y) < 1e-10
    assert at(found.x + 0.1, found.y) > 1e-2 < at(found.x, found.y + 0.1)


class TestWithoutASolution:
    def test_contradicting_rows_are_infeasible(self):
        rows, b = np.concatenate([EYE, -EYE]), np.concatenate([-np.ones(4), np.zeros(4)])
        program = stated(rows, b, cones.NonNegative(8))
        found = solved(program)
        assert int(found.code) == Code.infeasible
        assert float(program.b @ found.y) < 0 and bool(jnp.all(found.y >= 0))
        assert_allclose(program.A.T @ found.y, 0, atol=1e-6 * float(jnp.max(found.y)))

    def test_a_ray_downhill_is_unbounded(self):
        program = stated(-EYE, np.zeros(4), cones.NonNegative(4), point=np.abs(POINT))
        program = program._replace(P=jnp.zeros((4, 4)))
        found = solved(program)
        assert int(found.code) == Code.unbounded
        assert float(program.q @ found.x) < 0 and bool(jnp.all(found.x >= -1e-6 * jnp.max(found.x)))

    def test_few_steps_say_so(self):
        program = stated(*PROJECTIONS["ball"][0])
        found = solved(program, bl.OperatorSplitting(max_steps=1, iterations=1, polish=False))
        assert int(found.code) == Code.max_steps and int(found.steps) == 1

    def test_nan_is_never_a_solution(self):
        program = stated(*PROJECTIONS["box"][0])
        assert int(solved(program._replace(q=program.q.at[0].set(jnp.nan))).code) not in (
            Code.converged,
            Code.truncated,
            Code.stalled,
        )


def test_a_cone_is_one_group_and_each_inequality_its_own():
    cone = cones.Product(cones.Zero(2), cones.SecondOrder(3), cones.NonNegative(2), cones.PSD(2))
    groups = groups_of(cone)
    assert groups.owner.tolist() == [0, 1, 2, 2, 2, 3, 4, 5, 5, 5]
    assert groups.number == 6
