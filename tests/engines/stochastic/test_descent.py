"""Every stochastic engine goes down on simulated quadratics, to the floor or the bias of its rule."""

import jax
import jax.numpy as jnp
import pytest

import bilevel as bl
from bilevel.engines import Point
from experiments.stochastic.quadratics import quadratics

LAW = bl.PowerLaw(0.2, 0.5, 100.0)
ENGINES = [
    bl.SOBA(LAW, LAW),
    bl.MASOBA(LAW, LAW, LAW),
    bl.FSLA(LAW, LAW, LAW),
    bl.TTSA(LAW, 0.3, adjoint_steps=15),
    bl.BSA(LAW, 0.3, inner_steps=3, adjoint_steps=15),
    bl.SUSTAIN(LAW, 0.3, LAW, adjoint_steps=15),
    bl.MRBO(LAW, 0.3, LAW, adjoint_steps=15),
    bl.VRBO(0.2, 0.3, adjoint_steps=15),
    bl.BOME(LAW, 0.3),
    bl.VPBGD(LAW, bl.PowerLaw(2.0, -0.3)),
    bl.MEHA(0.2, bl.PowerLaw(2.0, -0.3)),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_the_gradient_of_the_value_function_falls(engine):
    problem = quadratics(samples=64, unknowns=6, hyperparameters=4, least=0.5)
    batch_size = 0 if isinstance(engine, bl.BOME) else 16  # 0: all; its multiplier does not bear noise
    task, key = problem.task(batch_size), jax.random.key(0)
    point = lambda step, hparams: Point(hparams, *task.batches(key, step), key=key)

    def turn(step, state):
        hparams, carry = state
        _, grad, report = engine.hypergradient(task, point(step, hparams), carry)
        return hparams - LAW(step) * grad, report.carry

    @jax.jit
    def run(hparams):
        return jax.lax.fori_loop(0, 1500, turn, (hparams, engine.first_carry(task, point(0, hparams))))[0]

    start = jnp.ones(4)
    end = run(start)
    assert jnp.sum(problem.gradient(end) ** 2) < 0.05 * jnp.sum(problem.gradient(start) ** 2)
