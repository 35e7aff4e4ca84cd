"""What the inner solver knows of the system, in the adjoint solve: the same gradients for fewer products."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl

SAMPLES, FEATURES = 40, 6
KEYS = jax.random.split(jax.random.key(0), 4)
X, XV = (jax.random.normal(key, (SAMPLES, FEATURES)) * jnp.logspace(0, -1.5, FEATURES) for key in KEYS[:2])
Y, YV = (jnp.sign(jax.random.normal(key, (SAMPLES,))) for key in KEYS[2:])
AT = jnp.full(FEATURES, -4.0)


def logistic(params, hparams, batch):
    return jnp.mean(jnp.logaddexp(0.0, -batch[1] * (batch[0] @ params)))


def squares(params, hparams, batch):
    return 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2)


def make(error, solver, loss=None):
    def penalised(params, hparams, batch):
        return error(params, hparams, batch) + 0.5 * jnp.sum(jnp.exp(hparams) * params**2)

    inner = bl.InnerProblem(loss=loss or penalised, init=lambda key, h: jnp.zeros(FEATURES), solver=solver)
    return bl.Task(inner=inner, outer_loss=error, init_hparams=lambda key: AT, batches=bl.full_batch((X, Y), (XV, YV)))


NEWTON = make(logistic, bl.Newton())
PLAIN = bl.Implicit(accuracy="residual")
REUSING = bl.Implicit(accuracy="residual", reuse=True)


def work(report):
    return int(report.counts.hessian_products), int(report.counts.factorizations)


@pytest.mark.slow
def test_the_factor_of_newtons_last_step_serves_the_adjoint():
    _, exact, plain = bl.hypergradient(NEWTON, AT, PLAIN)
    _, grad, report = bl.hypergradient(NEWTON, AT, REUSING)
    np.testing.assert_allclose(grad, exact, rtol=1e-8)
    steps = int(report.inner_steps)
    assert work(plain) == ((steps + 1) * FEATURES + 1, steps + 1)  # a residual is recomputed by the adjoint solve alone
    assert work(report)[1] == steps  # a factorisation a step, and none for the adjoint
    assert int(report.adjoint_steps) <= 4
    assert float(report.adjoint_residual) <= 1e-10


@pytest.mark.slow
def test_of_a_quadratic_loss_the_factor_is_that_of_the_system():
    _, exact, _ = bl.hypergradient(make(squares, bl.Newton()), AT, PLAIN)
    _, grad, report = bl.hypergradient(make(squares, bl.Newton()), AT, bl.Implicit(reuse=True))
    np.testing.assert_allclose(grad, exact, rtol=1e-9)
    assert (int(report.inner_steps), int(report.counts.factorizations)) == (1, 1)
    assert int(report.adjoint_steps) == 3  # one, and the residuals of the start and of the end
    assert report.error_grade == "estimate"


def test_an_inner_solve_that_starts_at_the_solution_hands_on_a_factor():
    """One step, since nobody had looked at the curvature there."""
    _, exact, first = bl.hypergradient(NEWTON, AT, REUSING)
    for _ in range(2):
        _, grad, report = bl.hypergradient(NEWTON, AT, REUSING, carry=first.carry)
        first = report
        assert int(report.inner_steps) == 1
        np.testing.assert_allclose(grad, exact, rtol=1e-8)
        assert work(report)[1] == 1 and int(report.adjoint_steps) <= 4
    alone = dataclasses.replace(NEWTON, warm_start=False)  # another problem in each step: nothing is known of it
    _, grad, report = bl.hypergradient(alone, AT, REUSING, carry=first.carry._replace(params=jnp.zeros(FEATURES)))
    np.testing.assert_allclose(grad, exact, rtol=1e-8)


@pytest.mark.slow
def test_lanes_have_factors_of_their_own():
    points = jnp.stack([AT, AT + 1.0, AT - 1.0])
    gradients = jax.jit(jax.vmap(lambda h: bl.hypergradient(NEWTON, h, REUSING)[1]))(points)
    for point, gradient in zip(points, gradients, strict=True):
        np.testing.assert_allclose(gradient, bl.hypergradient(NEWTON, point, PLAIN)[1], rtol=1e-8)


@pytest.mark.slow
def test_a_singular_system_is_solved_as_without():
    """Two equal columns and no penalty on them: Newton's factor is lost to rounding, and not handed on."""
    x, xv = (jnp.concatenate([part[:, :2], part[:, :4]], axis=1) for part in (X, XV))
    loss = lambda params, hparams, batch: squares(params, hparams, (batch[0], hparams[0] * batch[1]))
    task = make(squares, bl.Newton(), loss)
    task = dataclasses.replace(task, batches=bl.full_batch((x, Y), (xv, YV)))
    found = [bl.hypergradient(task, AT, engine) for engine in (PLAIN, REUSING)]
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-8)
    assert found[1][2].status.name == found[0][2].status.name == "converged"


@pytest.mark.slow
def test_pairs_precondition_the_adjoint():
    task = make(logistic, bl.LBFGS(memory=40, tol=1e-9))
    plain, reusing = (
        bl.Implicit(linear_solve=bl.CG(tol=1e-9), accuracy="residual", reuse=reuse) for reuse in (False, True)
    )
    _, exact, before = bl.hypergradient(task, AT, plain)
    _, grad, after = bl.hypergradient(task, AT, reusing)
    np.testing.assert_allclose(grad, exact, rtol=1e-6)
    assert int(before.counts.gradients) == int(after.counts.gradients)
    assert int(after.adjoint_steps) < int(before.adjoint_steps)
    assert int(after.counts.hessian_products) == int(after.adjoint_steps) + FEATURES  # a look at the curvature
    again = bl.hypergradient(task, AT, reusing, carry=after.carry._replace(adjoint=jnp.zeros(FEATURES)))
    np.testing.assert_allclose(again[1], exact, rtol=1e-6)
    assert int(again[2].inner_steps) == 0  # and the pairs of the last solve
    assert int(again[2].adjoint_steps) == int(after.adjoint_steps)


@pytest.mark.slow
def test_directions_of_newtons_own_gradients_precondition_the_adjoint():
    plain, informed = (
        make(logistic, bl.Newton(tol=1e-9, linear_solve=bl.CG(tol=1e-9, memory=memory))) for memory in (0, 8)
    )
    engine = bl.Implicit(linear_solve=bl.CG(tol=1e-9), accuracy="residual", reuse=True)
    _, exact, before = bl.hypergradient(plain, AT, engine)
    _, grad, after = bl.hypergradient(informed, AT, engine)
    np.testing.assert_allclose(grad, exact, rtol=1e-7)
    assert int(after.adjoint_steps) < int(before.adjoint_steps)


@functools.cache
def recycled(engine):
    """Five gradients along a line, each from the last: what the adjoint solves took, and the largest error."""
    curvature, size = jnp.logspace(0, 4, 40), 40
    task = bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((curvature + jnp.exp(h)) * w**2) - jnp.sum(w),
            init=lambda key, h: jnp.zeros(size),
            solver=bl.Newton(),
        ),
        outer_loss=lambda w, h, batch: jnp.sum(jnp.sin(100 * w)),
        init_hparams=lambda key: jnp.zeros(size),
        batches=bl.full_batch(None, None),
    )
    direction, carry, products, errors = jnp.sin(jnp.arange(40.0)), None, [], []
    for number in range(5):
        at = 0.05 * number * direction
        _, grad, report = bl.hypergradient(task, at, engine, carry=carry)
        exact = bl.hypergradient(task, at, PLAIN)[1]
        carry = report.carry
        errors.append(float(jnp.max(jnp.abs(grad - exact)) / jnp.max(jnp.abs(exact))))
        products.append(int(report.adjoint_steps))
        assert report.status.name == "converged"
    return products, max(errors)


@pytest.mark.slow
def test_directions_of_the_last_adjoint_solve_precondition_the_next():
    plain, before = recycled(bl.Implicit(linear_solve=bl.CG(tol=1e-9), accuracy="residual"))
    found, after = recycled(bl.Implicit(linear_solve=bl.CG(tol=1e-9), accuracy="residual", recycle=40))
    assert found[0] == plain[0] and sum(found[1:]) < 0.6 * sum(plain[1:])
    assert max(before, after) < 1e-7


@pytest.mark.slow
def test_recycling_in_a_trainer_with_adaptive_tolerances_and_retries():
    engine = bl.Implicit(linear_solve=bl.CG(), accuracy="residual", recycle=4, on_failure="retry")
    result = bl.Trainer(engine=bl.Adaptive(engine, bl.Summable()), steps=3).fit(make(logistic, bl.LBFGS()))
    assert result.summary["status"] == "completed"
    lazy = make(logistic, bl.LBFGS(max_steps=3))
    assert bl.Trainer(engine=engine, steps=1).fit(lazy).summary["retries"] > 0


def test_recycling_is_refused_where_nothing_is_recycled():
    for solver in (bl.GMRES(), bl.Dense(), bl.CG(preconditioner=bl.linear_solve.Jacobi())):
        with pytest.raises(ValueError, match="Use bl.CG"):
            bl.hypergradient(NEWTON, AT, bl.Implicit(linear_solve=solver, recycle=4))
    with pytest.raises(ValueError, match="not both"):
        bl.Implicit(recycle=4, reuse=True)


def test_a_preconditioner_of_ones_own_is_kept():
    engine = bl.Implicit(linear_solve=bl.CG(preconditioner=bl.linear_solve.Jacobi()))
    inverse = bl.linear_solve.CholeskyFactor(jnp.eye(2), jnp.bool_(True))
    assert engine.linear_solve.reusing(inverse) is engine.linear_solve
    reusing = bl.CG().reusing(inverse)
    assert isinstance(reusing, bl.CG) and reusing.preconditioner is inverse
    assert bl.Dense().reusing(inverse) == bl.Dense()
