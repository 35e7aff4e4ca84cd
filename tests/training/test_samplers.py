"""Searches without derivatives beside a run: as many inner solves, the best loss found, what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.training.samplers import beside, objective, searches


def shrinkage(size=1, batches=None):
    """w = 2 / (1 + exp(h)) for each h, judged by (w - 1)^2 / 2: the best h is 0, with loss 0."""
    return bl.Task(
        inner=bl.InnerProblem(
            loss=lambda w, h, batch: 0.5 * jnp.sum((w - 2.0) ** 2 + jnp.exp(h) * w**2),
            init=lambda key, h: jnp.zeros(size),
            solver=bl.Newton(),
        ),
        outer_loss=lambda w, h, batch: 0.5 * jnp.sum((w - 1.0) ** 2),
        init_hparams=lambda key: jnp.full(size, 1.5),
        batches=batches or bl.full_batch(0.0, 0.0),
        baselines=lambda: {"baseline/own": 1.0},
    )


def loss_at(h):
    return 0.5 * np.sum((2 / (1 + np.exp(h)) - 1.0) ** 2)


def fitted(sampler, **settings):
    task = beside(shrinkage(), sampler, 9, 2.0, jax.random.key(0), 0)
    return task, bl.Trainer(optimizer=optax.adam(0.3), engine=bl.Implicit(), steps=9, **settings).fit(
        task, key=jax.random.key(0)
    )


@pytest.mark.slow
def test_a_grid_finds_its_best_point():
    task, result = fitted("grid")
    summary, grid = result.summary, 1.5 + np.linspace(-2, 2, 9)
    np.testing.assert_allclose(summary["baseline_grid_loss"], min(map(loss_at, grid)), atol=1e-12)
    assert summary["baseline_grid_inner_solves"] == 9 and summary["baseline_own"] == 1.0
    axes = task.figures["against_grid"](result).axes
    np.testing.assert_allclose(min(axes[0].lines[1].get_ydata()), summary["baseline_grid_loss"])


@pytest.mark.parametrize("warm", [True, False])
def test_a_grid_goes_from_solution_to_solution_where_the_task_does(warm):
    """From the largest hyperparameters on, with the losses of cold solves; the solution of a failed one is no start."""
    asked = objective(replace(shrinkage(2), warm_start=warm), jax.random.key(0))
    starts = []

    def at(point, near):
        starts.append((point, near))
        loss, found = asked.at(point, near)
        return (np.inf if len(starts) == 3 else loss), found

    losses = list(searches("grid", asked._replace(at=at), 2.0, 9, 0))
    points = [point for point, _ in starts]
    expected = [asked(point) for point in points]
    np.testing.assert_allclose(np.delete(losses, 2), np.delete(expected, 2), rtol=1e-6)
    assert len(points) == 9 and np.allclose(points[0], 3.5) and np.allclose(points[-1], -0.5)
    assert [near is not None for _, near in starts] == [warm and number not in (0, 3) for number in range(9)]


def test_random_points_are_those_of_the_seed():
    searched = beside(shrinkage(), "random", 5, 2.0, jax.random.key(0), 3).baselines()
    points = 1.5 + np.random.default_rng(3).uniform(-2, 2, (5, 1))
    np.testing.assert_allclose(searched["baseline/random_loss"], min(map(loss_at, points)), rtol=1e-8)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_optuna_searches(sampler):
    pytest.importorskip("optuna", reason="the samplers tpe and gp are Optuna's")
    if sampler == "gp":
        pytest.importorskip("torch", reason="Optuna's Gaussian process needs torch")
    searched = beside(shrinkage(), sampler, 25, 2.0, jax.random.key(0), 0).baselines()
    assert searched[f"baseline/{sampler}_loss"] < 1e-2


def test_what_cannot_be_is_refused(monkeypatch):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="choose one of grid, random, tpe, gp"):
        beside(shrinkage(), "sobol", 5, 1.0, key, 0)
    with pytest.raises(ValueError, match="a grid over 4 hyperparameters has too many points"):
        beside(shrinkage(4), "grid", 5, 1.0, key, 0)
    drawn = bl.minibatches(np.ones(4), np.ones(4), 2)
    with pytest.raises(ValueError, match="each step of this task has batches of its own"):
        beside(shrinkage(batches=drawn), "random", 5, 1.0, key, 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package optuna: pip install 'bilevel\[optuna\]'"):
        beside(shrinkage(), "tpe", 5, 1.0, key, 0)
