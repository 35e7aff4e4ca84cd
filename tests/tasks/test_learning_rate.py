"""Tuning how a network is trained: exact in float64, better than the start, refused by engines that need a solution."""

import jax
import numpy as np
import optax
import pytest

import bilevel as bl
from bilevel.tasks import learning_rate

SMALL = {"data": "iris", "train": 60, "validation": 40, "width": 4, "steps": 20, "batch_size": 20}


def test_the_gradient_is_that_of_differences():
    task = learning_rate(**SMALL, precision="float64")
    hparams = task.init_hparams(jax.random.key(0))
    _, grad, report = bl.hypergradient(task, hparams, bl.Unrolled())
    value = lambda shift: float(
        bl.hypergradient(task, {**hparams, "log_rates": hparams["log_rates"] + shift}, bl.Unrolled())[0]
    )
    step = 1e-4 * np.eye(10)[3]
    np.testing.assert_allclose(grad["log_rates"][3], (value(step) - value(-step)) / 2e-4, rtol=1e-5)
    assert report.status.name == "truncated" and int(report.inner_steps) == 20
    with pytest.raises(ValueError, match="differentiates a solution"):
        bl.hypergradient(task, hparams, bl.Implicit())


@pytest.mark.slow
def test_a_schedule_is_better_than_the_best_constant_rate(drawn):
    task = learning_rate(**SMALL)
    with jax.enable_x64(False):
        result = bl.Trainer(optimizer=optax.adam(0.2), engine=bl.Unrolled(), steps=40).fit(task, key=jax.random.key(0))
        assert result.summary["best_outer_loss"] < result.summary["baseline_validation_loss"]
        assert drawn(task, result) == {"schedule"}
