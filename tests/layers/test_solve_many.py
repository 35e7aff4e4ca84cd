"""Problems in a queue: the results of vmap, in fewer steps where they differ in length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from bilevel.solvers.lanes import iterate_many

TARGETS = np.random.default_rng(0).normal(size=(11, 3))
TARGETS[7] = 0.0  # solved by the start
CONDITIONS = np.array([1.0, 2.0, 80.0, 1.5, 1.0, 3.0, 2.0, 1.2, 60.0, 1.0, 2.0])


def loss(w, h, batch):
    curvature = jnp.stack([jnp.ones_like(h), jnp.sqrt(h), h])
    return 0.5 * jnp.sum(curvature * (w - batch) ** 2) + 0.05 * jnp.sum(w**4)


@functools.cache
def problem():
    return bl.InnerProblem(
        loss=loss, init=lambda key, h: jnp.zeros(3), solver=bl.GradientDescent(max_steps=3000, tol=1e-9)
    )


@pytest.mark.slow
def test_equals_vmap_in_values_steps_and_derivatives():
    @jax.jit
    def by(hparams, targets):
        queue = lambda h: bl.solve_batch(problem(), h, targets, lanes=3)
        plain = lambda h: jax.vmap(problem().solve)(h, targets)
        slope = lambda solve: jax.grad(lambda h: jnp.sum(solve(h).params ** 3))(hparams)
        return [(solve(hparams), slope(solve)) for solve in (queue, plain)]

    (found, slope), (plain, expected) = by(CONDITIONS, TARGETS)
    np.testing.assert_allclose(found.params, plain.params, atol=1e-14)
    np.testing.assert_array_equal(found.steps, plain.steps)
    assert found.steps[7] == 0
    np.testing.assert_array_equal(found.status.code, plain.status.code)
    np.testing.assert_array_equal(found.counts.gradients, plain.counts.gradients)
    np.testing.assert_allclose(slope, expected, atol=1e-12)


@pytest.mark.slow
def test_short_problems_do_not_wait_for_long_ones():
    inner = problem()
    steps = jax.vmap(inner.solve)(jnp.asarray(CONDITIONS), jnp.asarray(TARGETS)).steps
    instance = lambda i: inner.at(jnp.asarray(CONDITIONS)[i], jnp.asarray(TARGETS)[i])
    _, sweeps = iterate_many(inner.solver, instance, lambda i: jnp.zeros(3), 11, 2)
    waits = 11 * int(jnp.max(steps))  # steps that vmap takes, in lanes
    assert 2 * int(sweeps) < 0.4 * waits
    assert int(sweeps) <= int(jnp.sum(steps)) / 2 + int(jnp.max(steps)) + 11


def test_no_lane_and_no_problem_are_refused():
    """Nothing was solved before, and everything had converged."""
    for lanes, number in ((0, 3), (-1, 3), (4, 0)):
        with pytest.raises(ValueError, match="at least one of each"):
            bl.solve_batch(problem(), jnp.asarray(CONDITIONS[:number]), TARGETS[:number], lanes=lanes)


@pytest.mark.slow
def test_shared_arguments_more_lanes_than_problems_and_refusals():
    found = bl.solve_batch(problem(), jnp.asarray(2.0), TARGETS[:2], in_axes=(None, 0), lanes=64)
    np.testing.assert_allclose(found.params[1], problem().solve(2.0, TARGETS[1]).params, atol=1e-14)
    with pytest.raises(ValueError, match="one length of the leading axes"):
        bl.solve_batch(problem(), CONDITIONS[:3], TARGETS)
