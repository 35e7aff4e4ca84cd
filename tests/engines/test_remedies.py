"""The remedy for a failed solve fits what failed, and names nothing that is in use."""

import jax.numpy as jnp
import pytest

import bilevel as bl
from bilevel.engines.remedies import adjoint_remedy, inner_remedy

SOLVERS = [bl.Auto(), bl.LBFGS(), bl.Newton(), bl.GradientDescent(), bl.ActiveSetNewton()]
LINEAR = [bl.Dense(), bl.MINRES(), bl.GMRES(), bl.CG(), bl.AutoLinear()]
FAILURES = [code for code in bl.Code if code > bl.Code.stalled]


@pytest.mark.parametrize("code", FAILURES)
def test_nothing_in_use_is_named(code):
    for solver in SOLVERS:
        for steps in (1, solver.max_steps):
            assert f"bl.{type(solver).__name__}()" not in inner_remedy(code, steps, solver)
    for linear_solve in LINEAR:
        assert f"bl.{type(linear_solve).__name__}()" not in adjoint_remedy(code, bl.Implicit(linear_solve=linear_solve))


def test_steps_that_ran_out_are_told_from_steps_that_did_not_help():
    assert "raise max_steps" in inner_remedy(bl.Code.max_steps, 10_000, bl.Auto())
    assert "raise max_steps" not in inner_remedy(bl.Code.max_steps, 1, bl.Auto())
    assert "linear_solve" in adjoint_remedy(bl.Code.max_steps, bl.Implicit(linear_solve=bl.CG()))


@pytest.mark.slow
def test_an_engine_without_an_adjoint_speaks_of_its_steps():
    """The root of a distance that is zero has no derivative."""

    def loss(w, h, batch):
        return 0.5 * jnp.sum((w - h) ** 2) + jnp.sqrt(jnp.sum((h - 1.0) ** 2)) * jnp.sum(w)

    task = bl.Task(
        inner=bl.InnerProblem(loss, lambda key, h: jnp.zeros(2), solver=bl.GradientDescent(step_size=1.0)),
        outer_loss=lambda w, h, batch: jnp.sum(w**2),
        init_hparams=lambda key: jnp.ones(()),
        batches=bl.full_batch(None, None),
    )
    with pytest.raises(bl.ConvergenceError, match=r"derivative through the steps is nonfinite.*roots") as caught:
        bl.hypergradient(task, jnp.ones(()), bl.Unrolled())
    assert "adjoint" not in str(caught.value)


@pytest.mark.slow
def test_a_loss_without_a_minimum_is_told_with_its_remedy():
    task = bl.Task(
        inner=bl.InnerProblem(lambda w, h, b: -h * jnp.sum(w), lambda key, h: jnp.zeros(2), solver=bl.LBFGS()),
        outer_loss=lambda w, h, batch: jnp.sum(w),
        init_hparams=lambda key: jnp.ones(()),
        batches=bl.full_batch(None, None),
    )
    with pytest.raises(bl.ConvergenceError, match=r"status unbounded.*add a constraint or a regulariser"):
        bl.hypergradient(task, jnp.ones(()))


def test_a_start_out_of_range_is_named_as_such():
    """exp(100 w) overflows at the start in float32, so no step size can help."""
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: jnp.exp(100 * w) - h * w, init=lambda key, h: jnp.ones((), jnp.float32)
        ),
        outer_loss=lambda w, h, batch: w**2,
        init_hparams=lambda key: jnp.ones((), jnp.float32),
        batches=bl.full_batch(None, None),
        precision="float32",
    )
    with pytest.raises(bl.ConvergenceError, match="not finite at the start"):
        bl.hypergradient(task, jnp.ones((), jnp.float32))
    assert "step size" in inner_remedy(bl.Code.nonfinite, 3, bl.GradientDescent())
