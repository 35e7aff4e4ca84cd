"""Step sizes that are functions of the outer step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as bl
from bilevel.engines import Point
from bilevel.engines.stochastic.steps import size_at
from experiments.stochastic.quadratics import quadratics


def test_a_power_law_is_a_schedule_whose_numbers_compile_nothing_again():
    law = bl.PowerLaw(first=0.3, power=1.0, after=4.0)
    np.testing.assert_allclose([law(0), law(4), size_at(law, jnp.int32(12))], [0.3, 0.15, 0.075], rtol=1e-12)
    one, other = bl.SOBA(law), bl.SOBA(bl.PowerLaw(first=0.2, power=0.5))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    schedule = optax.constant_schedule(0.1)
    assert bl.F2SA(schedule) == bl.F2SA(schedule) != bl.F2SA(optax.constant_schedule(0.1))


@pytest.mark.parametrize("schedule", [optax.constant_schedule(0.1), bl.PowerLaw(0.1, power=0.0)])
def test_a_constant_schedule_is_the_number(schedule):
    task, carries = quadratics(samples=12, unknowns=3, hyperparameters=2).task(4), []
    for size in (0.1, schedule):
        engine, carry = bl.MASOBA(size, size), None
        for step in range(2):
            batch = task.batches(jax.random.key(0), step)
            _, _, report = bl.hypergradient(task, jnp.ones(2), engine, batch=batch, carry=carry)
            carry = report.carry
        carries.append(carry)
    np.testing.assert_allclose(*[ravel_pytree(carry)[0] for carry in carries], rtol=1e-14)


def test_decreasing_steps_go_below_the_floor_of_constant_ones():
    problem = quadratics(samples=64, unknowns=6, hyperparameters=4, least=0.5)
    task, key = problem.task(8), jax.random.key(0)

    @jax.jit
    def left(law):
        engine = bl.SOBA(law, law)
        point = lambda step, hparams: Point(hparams, *task.batches(key, step), key=key)

        def turn(step, state):
            hparams, carry = state
            _, grad, report = engine.hypergradient(task, point(step, hparams), carry)
            return hparams - law(step) * grad, report.carry

        hparams = jnp.zeros(4)
        hparams, _ = jax.lax.fori_loop(0, 4000, turn, (hparams, engine.first_carry(task, point(0, hparams))))
        return jnp.sum(problem.gradient(hparams) ** 2)

    assert left(bl.PowerLaw(0.3, 0.5, 50.0)) < 0.5 * left(bl.PowerLaw(0.3, 0.0))
