"""Smoothing, noise, dropout and the penalty of a network: exact at a minimum, and refused where it cannot be."""

import jax
import numpy as np
import pytest

import bilevel as bl
from bilevel.tasks import augmentation, learning_rate
from bilevel.tasks.augmentation import NAMES

SMALL = {"data": "iris", "train": 40, "validation": 40, "width": 3, "draws": 2, "penalty": 0.05}


@pytest.mark.slow
def test_the_gradient_is_that_of_differences():
    task = augmentation(**SMALL, tol=1e-11)
    hparams = task.init_hparams(jax.random.key(0))
    engine = bl.Implicit(linear_solve=bl.Dense(), accuracy="residual")
    _, grad, report = bl.hypergradient(task, hparams, engine)
    moved = lambda name, by: {**hparams, name: hparams[name] + by}
    value = lambda name, by: float(bl.hypergradient(task, moved(name, by), engine, carry=report.carry)[0])
    for name in NAMES:
        np.testing.assert_allclose(grad[name], (value(name, 1e-4) - value(name, -1e-4)) / 2e-4, rtol=1e-4, atol=1e-8)
    full = bl.Implicit(linear_solve=bl.Nystrom(rank=200), accuracy="residual")
    _, low, _ = bl.hypergradient(task, hparams, full)
    for name in NAMES:
        np.testing.assert_allclose(low[name], grad[name], rtol=1e-5, atol=1e-8)


def test_a_method_without_a_name_is_refused():
    with pytest.raises(ValueError, match="task.method=lion: choose one of sgd, adam"):
        learning_rate(data="iris", train=60, validation=40, method="lion")
