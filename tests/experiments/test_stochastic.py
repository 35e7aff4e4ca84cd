"""The benchmark of stochastic engines: its closed forms, its grid, and where variance reduction ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as bl
from experiments import common
from experiments.stochastic.benchmark import (
    AFTER,
    CHECKPOINTS,
    METHODS,
    Grid,
    Method,
    best_of_grid,
    compiled,
    first_point,
    runner,
)
from experiments.stochastic.figure import draw
from experiments.stochastic.quadratics import Quadratics, level, quadratics

LAW = bl.PowerLaw(0.1, 0.5, AFTER)


def level_of(samples):
    return level(jax.random.key(samples), samples, unknowns=5, hyperparameters=3, cross=0.1, least=0.1)


def test_the_closed_form_is_the_hypergradient():
    problem = quadratics(samples=40, unknowns=5, hyperparameters=3)
    hparams = jnp.array([0.3, -1.0, 2.0])
    value, grad, _ = bl.hypergradient(problem.task(), hparams)
    np.testing.assert_allclose(value, problem.value(hparams), rtol=1e-8)
    np.testing.assert_allclose(grad, problem.gradient(hparams), rtol=1e-6)
    gap, _ = problem.measure()(hparams)
    assert gap > 0


@pytest.mark.slow
def test_the_best_run_of_the_grid_is_told_with_its_calls_and_drawn(tmp_path):
    problem = quadratics(samples=64, unknowns=5, hyperparameters=3)
    rows = best_of_grid("SOBA, decreasing", problem, problem.measure(), Grid((0.05, 0.2), (0.1, 1.0)), 960)
    assert len(rows) == CHECKPOINTS and [int(row[4]) for row in rows] == [
        80 * part for part in range(1, CHECKPOINTS + 1)
    ]
    columns = ("problem", "engine", "step_size", "ratio", "steps", "calls", "seconds", "suboptimality", "gradient_norm")
    common.write(tmp_path / "results.csv", columns, [("quadratics", *row) for row in rows])
    draw(tmp_path / "results.csv", tmp_path)
    assert (tmp_path / "quadratics.png").stat().st_size > 2000


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["SRBA", "VRBO", "SOBA"])
def test_the_stated_cost_of_a_step_is_what_the_engine_counts(name):
    """Over a whole number of periods, with the pass at its start; 4 blocks inside and 7 outside."""
    problem, key = Quadratics(level_of(256), level_of(448)), jax.random.key(0)
    method, task = METHODS[name], problem.task(64)
    first = first_point(task, key)
    period = method.passes.period(first) if method.passes else 1
    curve = runner(task, method, period, key)(jnp.array(0.1), jnp.array(0.1))
    loops = 78 if name == "VRBO" else 0  # its first step has no inner loop
    assert int(curve.calls[-1]) == CHECKPOINTS * round(period * method.cost(first)) - loops


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "end"), [(bl.SABA(), 8.8e-7), (bl.SRBA(), 1.9e-6), (bl.SOBA(LAW, LAW), 1.6e-3)])
def test_on_the_published_sizes_a_thousand_steps_end_where_the_benchmark_does(engine, end):
    """The squared norm of the gradient: 8.8e-7, 1.9e-6 and 1.6e-3 are those of the benchmark's own solvers, on its draw
    of the same quadratics."""
    problem = quadratics(hyperparameters=10)
    method = Method(lambda size: engine, 1, 0.5 if isinstance(engine, bl.SOBA) else 0.0)
    run = runner(problem.task(64), method, 84, jax.random.key(0))
    curve = compiled(run, jnp.array(0.1), jnp.array(0.1))(jnp.array(0.1), jnp.array(0.1))
    assert problem.measure()(curve.hparams[-1])[1] ** 2 < end
