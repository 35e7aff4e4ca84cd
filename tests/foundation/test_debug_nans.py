"""Under ``jax_debug_nans`` nothing stops on the way to a right answer: what was not asked for is no result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.foundation.compilation import Program

ENGINES = [bl.Unrolled(), bl.OneStep(), bl.Implicit(accuracy="residual")]


@pytest.fixture(autouse=True)
def debug_nans():
    with jax.debug_nans(True):
        yield


def test_a_result_that_is_nan_by_construction_is_returned():
    program = Program(lambda x: (2 * x, np.float32(np.nan), jnp.sum(x)))
    double, unknown, total = program(jnp.ones(2))
    assert double.tolist() == [2.0, 2.0] and np.isnan(unknown) and float(total) == 2.0


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_what_is_nan_by_construction_keeps_its_shape_and_type(shape):
    found = Program(lambda x: jnp.full(shape, jnp.nan, jnp.float32))(jnp.ones(2))
    assert (found.shape, found.dtype) == (shape, jnp.float32) and np.isnan(found).all()


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: type(one).__name__)
def test_a_hypergradient(engine):
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - 1.0) ** 2) + 0.5 * jnp.exp(h) * jnp.sum(w**2),
            init=lambda key, h: jnp.zeros(2),
            solver=bl.GradientDescent(step_size=0.5),
        ),
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.zeros(()),
        batches=bl.full_batch(0.0, 0.0),
    )
    _, grad, report = bl.hypergradient(task, jnp.zeros(()), engine)
    assert np.isfinite(float(grad)) and np.isnan(float(report.theta))


@pytest.mark.parametrize("solver", [bl.FixedPointIteration(), pytest.param(bl.Newton(), marks=pytest.mark.slow)])
def test_a_root_whose_curvature_is_not_asked_for(solver):
    inner = bl.InnerProblem.from_fixed_point(
        lambda w, h, batch: 0.5 * jnp.cos(w) + h, lambda key, h: jnp.zeros(2), solver
    )
    found = inner.solve(jnp.array(0.1), None)
    assert found.status.name == "converged" and np.isnan(found.curvature)
