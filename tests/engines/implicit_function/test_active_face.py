"""The distance of a solution to the next face, and what is claimed there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.engines import Point

KEYS = jax.random.split(jax.random.key(5), 4)


def soft_threshold_task(targets, outer=lambda w, h, batch: 0.5 * jnp.sum((w - 1.0) ** 2)):
    """min 1/2 ||w - targets||^2 + exp(h) ||w||_1: the face and its margin are known."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - batch) ** 2),
        init=lambda key, h: jnp.zeros(len(targets)),
        penalty=bl.L1(weight=jnp.exp),
    )
    return bl.Task(
        inner=inner, outer_loss=outer, init_hparams=lambda key: jnp.zeros(()), batches=bl.full_batch(targets, None)
    )


@pytest.mark.slow
def test_the_distance_to_the_next_face():
    task = soft_threshold_task(jnp.array([3.0, 1.2, 0.3, -0.9]))
    _, grad, report = bl.hypergradient(task, jnp.zeros(()))
    np.testing.assert_allclose(report.margin, 0.1, rtol=1e-6)  # of the last, off the face
    assert int(report.weakly_active) == 0
    assert report.error_grade == "estimate"
    np.testing.assert_allclose(grad, -(1.0 + (0.2 - 1.0)), rtol=1e-8)


@pytest.mark.slow
def test_at_a_kink_nothing_is_claimed():
    _, _, report = bl.hypergradient(soft_threshold_task(jnp.array([3.0, 1.0, 0.3])), jnp.zeros(()))
    assert int(report.weakly_active) == 1
    assert float(report.margin) < 1e-12
    assert report.error_grade == "residual"


@pytest.mark.slow
def test_the_face_is_read_with_a_step_that_suits_the_loss():
    """At an inexact solution of a badly scaled loss a step of 1 reads a wrong face, one of 1/L the right one."""
    samples, features = 40, 12
    inputs = 100.0 * jax.random.normal(KEYS[0], (samples, features))
    truth = jax.random.normal(KEYS[1], (features,)) / 100.0
    train = (inputs, inputs @ truth + 0.3 * jax.random.normal(KEYS[2], (samples,)))
    error = lambda params, hparams, batch: 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2)
    make = lambda solver: bl.InnerProblem(
        loss=error, init=lambda key, h: jnp.zeros(features), penalty=bl.L1(weight=jnp.exp), solver=solver
    )
    hparams = jnp.log(30.0)
    exact_params = make(bl.ProximalGradient(tol=1e-15, max_steps=20_000)).solve(hparams, train).params
    support = exact_params != 0
    assert 0 < int(jnp.sum(support)) < features
    smallest = float(jnp.min(jnp.abs(exact_params[support])))
    iterate = exact_params + jnp.where(support, 0.2 * smallest, 0.0) * jax.random.normal(KEYS[3], (features,))
    mapping = make(bl.Auto()).mapping

    def face(form):
        _, pull = jax.linearize(lambda w: form(w, hparams, train), iterate)
        rows = jax.vmap(pull)(jnp.eye(features))
        return jnp.linalg.norm(rows + jnp.eye(features), axis=0) > 1e-12  # rows of D: zero off the face

    largest = float(jnp.linalg.eigvalsh(train[0].T @ train[0] / samples)[-1])
    local = mapping.localize(iterate, hparams, train)
    assert isinstance(local, bl.optimality.ProximalGradient)
    assert 0.9 < float(local.step_size) * largest < 2.0
    np.testing.assert_array_equal(face(local), support)
    assert not np.array_equal(face(mapping), support)


AT = {
    "simplex": (bl.Simplex(), np.array([0.5, 0.5, 0.0])),
    "polyhedron": (
        bl.Polyhedron(A=np.ones((1, 3)), b=np.ones(1), G=-np.eye(3), h=np.zeros(3)),
        np.array([0.5, 0.5, 0.0]),
    ),
    "transport": (
        bl.Transport(rows=np.array([0.5, 0.5]), columns=np.array([0.5, 0.25, 0.25])),
        np.array([[0.25, 0.25, 0.0], [0.25, 0.0, 0.25]]),
    ),
}


@pytest.mark.parametrize("name", AT)
def test_a_kink_is_seen_from_afar(name):
    """A force along the normal of the set moves the point that is projected away from it, and the solution not at all.
    The last coordinate of either row stays weakly active."""
    constraint, solution = AT[name]
    inner = bl.InnerProblem(
        loss=lambda w, h, force: 0.5 * jnp.sum((w - h) ** 2) - force * jnp.sum(w),
        init=lambda key, h: jnp.asarray(solution),
        constraint=constraint,
    )
    faces = jax.jit(inner.mapping.faces)
    for force in (0.0, 1e3, 1e8):
        distances = faces(jnp.asarray(solution), jnp.asarray(solution), force)
        assert min(float(jnp.min(leaf)) for leaf in jax.tree.leaves(distances)) <= 1e-14, force


@pytest.mark.slow
def test_a_kink_without_any_force_is_no_estimate():
    """The multipliers of a simplex stated by functions are all zero up to rounding where the loss is smallest on it."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.5 * jnp.sum((w - h) ** 2),
        init=lambda key, h: jnp.ones(3) / 3,
        constraint=bl.Functional(equality=lambda w, h, b: jnp.sum(w) - 1, inequality=lambda w, h, b: -w),
    )
    hparams = jnp.array([0.5, 0.5, 0.0])
    task = bl.Task(inner, lambda w, h, batch: w[2], lambda key: hparams, bl.full_batch(0.0, 0.0))
    _, _, report = bl.hypergradient(task, hparams)
    assert report.error_grade == "residual" and int(report.weakly_active) == 1


@pytest.mark.parametrize("refine", [pytest.param(False, marks=pytest.mark.slow), True])
def test_without_a_further_solve_the_face_is_looked_at(refine):
    """A loose solution of a lasso has the wrong support, so that the derivative on its face is off by a factor of 4.
    A corrected gradient on that face is no better."""
    inputs = np.random.default_rng(4).normal(size=(30, 8)) @ np.diag(np.geomspace(1, 0.1, 8))
    targets = inputs @ np.ones(8) + 0.1 * np.random.default_rng(4).normal(size=30)
    train, start = (jnp.asarray(inputs), jnp.asarray(targets)), jnp.array(-2.5)

    def answer(tol, engine):
        inner = bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
            init=lambda key, h: jnp.ones(8),
            penalty=bl.L1(weight=jnp.exp),
            solver=bl.ProximalGradient(tol=tol),
        )
        outer = lambda w, h, batch: jnp.sum((w - 1) ** 2)
        return bl.hypergradient(bl.Task(inner, outer, lambda key: start, bl.full_batch(train, None)), start, engine)[1:]

    exact, _ = answer(1e-12, bl.Implicit())
    grad, report = answer(0.2, bl.Implicit(accuracy="residual", refine=refine))
    error = abs(float(grad - exact))
    assert error > 2 * abs(float(exact))
    assert report.error_grade == "residual" and int(report.weakly_active) > 0
    assert error <= float(report.error_estimate) <= 3 * error
    _, report = answer(1e-12, bl.Implicit(accuracy="residual"))
    assert int(report.weakly_active) == 0 and float(report.margin) > 0
    assert float(report.error_estimate) < 1e-6 * abs(float(exact))


def test_far_from_the_solution_and_on_an_unknown_face_nothing_is_known():
    """A Newton step shortens the residual of a quartic to 0.3 of it, so the way left is longer than the step, and
    some coordinates become zero on it."""
    inner = bl.InnerProblem(
        loss=lambda w, h, batch: 0.25 * jnp.sum(w**4),
        init=lambda key, h: jnp.array([10.0, 6.0]),
        penalty=bl.L1(weight=jnp.exp),
        solver=bl.ProximalGradient(tol=1e-2),
    )
    task = bl.Task(inner, lambda w, h, b: jnp.sum(w), lambda key: jnp.array(-3.0), bl.full_batch(None, None))
    _, _, report = bl.hypergradient(task, jnp.array(-3.0))
    assert float(report.theta) > 0.1 and int(report.weakly_active) > 0
    assert report.error_grade == "residual" and float(report.error_estimate) == np.inf


def test_at_zero_the_way_to_the_solution_is_not_relative():
    """At w = 0, which has no size, the next face is at 0.5 and the solution 0.5 away: |w - 1.5|^2 / 2 + |w|."""
    task = soft_threshold_task(jnp.array([1.5]))
    point = Point(jnp.zeros(()), jnp.array([1.5]), None, jax.random.key(0))
    outcome = task.inner.run(point.hparams, point.inner_batch, jnp.zeros(1), jnp.ones(1), point.key)
    engine = bl.Implicit(accuracy="residual")
    _, _, report = engine.at_solution(task, point, outcome._replace(params=jnp.zeros(1), residual=jnp.array(0.5)))
    assert int(report.weakly_active) == 1
    assert float(report.error_estimate) > 0.4
