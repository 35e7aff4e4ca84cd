"""Linear regression, the learner inside two of the tasks: predictions z = x @ params."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from bilevel.data import DataSet
from bilevel.foundation.typing import Batch, Params, Scalar

Samples = tuple[np.ndarray, np.ndarray]  # inputs (n, features) and targets (n,)


def samples(data: DataSet) -> Samples:
    """Inputs and targets."""
    return data.inputs, data.targets


def mean_loss(params: Params, batch: Batch) -> Scalar:
    """Half of the mean squared error."""
    inputs, targets = batch
    return 0.5 * jnp.mean((inputs @ params - targets) ** 2)


def held_out(params: Params, test: Samples, stop: Samples) -> dict[str, Scalar]:
    """Loss and R^2 on the test set and, where there is one, the loss on the second hold-out."""
    variance = jnp.mean((test[1] - jnp.mean(test[1])) ** 2)
    loss = mean_loss(params, test)
    metrics = {"test/loss": loss, "test/r2": 1.0 - 2.0 * loss / variance}
    return {**metrics, "stop/loss": mean_loss(params, stop)} if len(stop[1]) else metrics
