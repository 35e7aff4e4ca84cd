"""Soft spheres: energy and Hessian, the sensitivity of the equilibrium against differences, the null space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bilevel.tasks import molecular, molecular_sensitivities
from bilevel.training.trainer import Trainer
from experiments.molecular.soft_spheres import REFERENCE, SoftSpheres

SPHERES = SoftSpheres(particles=16)


@pytest.fixture(scope="module")
def equilibrium():
    with jax.enable_x64(True):
        start = SPHERES.problem(4000).solve(jnp.asarray(REFERENCE), (), key=jax.random.key(1)).params
        return jax.jit(lambda x: SPHERES.polished(x, REFERENCE))(start)


def test_the_energy_of_two_spheres_is_by_hand():
    """One of diameter 1 and one of 0.6, 0.5 apart: gap 1 - 0.5/0.8; the packing fraction fills the box."""
    pair = SoftSpheres(particles=2, fraction=0.2)
    positions = jnp.array([[0.1, 0.2], [0.6, 0.2]])
    assert_allclose(pair.energy(positions, REFERENCE, ()), 0.5 * (1 - 0.5 / 0.8) ** 2, rtol=1e-12)
    assert_allclose(pair.box(0.6) ** 2 * 0.2, np.pi / 4 * (1 + 0.36), rtol=1e-12)
    shifted = positions - jnp.array([0.3, 0.0])  # across the border of the box
    assert_allclose(pair.energy(shifted, REFERENCE, ()), pair.energy(positions, REFERENCE, ()), rtol=1e-12)


@pytest.mark.slow
def test_the_hessian_is_that_of_the_energy():
    positions = SPHERES.random(jax.random.key(0), REFERENCE)
    by_differentiation = jax.hessian(SPHERES.energy)(positions, 0.7, ()).reshape(32, 32)
    assert_allclose(SPHERES.hessian(positions, 0.7), by_differentiation, atol=1e-11)


@pytest.mark.slow
def test_the_sensitivity_is_the_derivative_of_the_equilibrium(equilibrium):
    sensitivity = SPHERES.sensitivity(equilibrium, REFERENCE)
    moved = [SPHERES.polished(equilibrium, REFERENCE + reach) for reach in (1e-6, -1e-6)]
    assert_allclose(sensitivity, (moved[0] - moved[1]) / 2e-6, atol=1e-6 * float(jnp.max(jnp.abs(sensitivity))))
    assert float(jnp.max(jnp.abs(sensitivity))) > 0.1


@pytest.mark.slow
def test_the_null_space_is_left_alone(equilibrium):
    """No net translation, and spheres without contact stay where they are."""
    sensitivity = np.asarray(SPHERES.sensitivity(equilibrium, REFERENCE))
    free = ~np.any(np.asarray(SPHERES.contacts(equilibrium, REFERENCE)), axis=1)
    assert_allclose(sensitivity.sum(axis=0), 0.0, atol=1e-10)
    assert_allclose(sensitivity[free], 0.0, atol=1e-10)


@pytest.mark.slow
def test_the_study_finds_the_unrolled_derivative_late():
    found = molecular_sensitivities(particles=32, seeds=3, steps=2400)
    figures = found.figures()
    assert figures["seeds_implicit_stable"] == figures["seeds_at_rest"] == 3
    assert figures["max_error_against_differences"] < 1e-6
    wrong = found._replace(paths=found.paths._replace(implicit=1.01 * found.paths.implicit))
    assert wrong.figures()["seeds_implicit_stable"] == 0


@pytest.mark.slow
def test_the_task_runs(drawn):
    task = molecular(particles=16, seeds=2, steps=2400)
    result = Trainer(steps=2).fit(task)
    assert result.summary["seeds"] == 2
    assert result.summary["final_outer_loss"] >= 0
    diameter, even = result.summary["baseline_diameter"], result.summary["baseline_outer_loss"]
    assert even == pytest.approx(float(task.outer_loss(task.inner.solve(diameter, ()).params, diameter, ())))
    assert drawn(task, result) == {"sensitivity"}
