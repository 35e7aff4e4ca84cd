"""One length scale a feature: the hypergradient, and the closed form."""

import functools

import jax
import numpy as np
import pytest

import bilevel as bl
from bilevel.tasks import kernel_ridge
from bilevel.tasks.kernel_ridge import kernel

small = functools.partial(kernel_ridge, train=40, validation=30)


@pytest.mark.slow
def test_the_solution_is_the_closed_form_and_the_gradient_that_of_differences():
    task = small()
    hparams = task.init_hparams(jax.random.key(0))
    (inputs, targets), _ = task.batches(jax.random.key(0), 0)
    gram = np.exp(-0.5 * ((inputs[:, None] - inputs[None]) ** 2).sum(axis=2) / 16)
    np.testing.assert_allclose(kernel(inputs, inputs, hparams), gram, rtol=1e-10)
    exact = np.linalg.solve(gram + 40 * 0.1 * np.eye(40), targets)
    _, grad, report = bl.hypergradient(task, hparams)
    np.testing.assert_allclose(report.params, exact, rtol=1e-7, atol=1e-9)
    value = lambda shift: float(bl.hypergradient(task, {**hparams, "log_scales": hparams["log_scales"] + shift})[0])
    step = 1e-4 * np.eye(10)[2]
    np.testing.assert_allclose(grad["log_scales"][2], (value(step) - value(-step)) / 2e-4, rtol=1e-5)
