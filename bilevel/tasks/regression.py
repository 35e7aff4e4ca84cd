"""Linear regression, the learner inside two of the tasks: predictions z = x @ params."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from bilevel.data import DataSet, checked, without_gaps
from bilevel.foundation.typing import Batch, Params, Scalar

Samples = tuple[np.ndarray, np.ndarray]  # inputs (n, features) and targets (n,)


def samples(data: DataSet) -> Samples:
    """Inputs and targets, one for each sample."""
    return without_gaps(checked(data)).inputs, data.targets


def mean_loss(params: Params, batch: Batch) -> Scalar:
    """Half of the mean squared error. Raises ValueError where predictions and targets differ in shape, because (n,)
    against (n, 1) would be n x n errors."""
    inputs, targets = batch
    predictions = inputs @ params
    if predictions.shape != jnp.shape(targets):
        raise ValueError(
            f"The targets have the shape {jnp.shape(targets)} and the predictions {predictions.shape}: give both the "
            "same, as targets.ravel() does for a single column."
        )
    return 0.5 * jnp.mean((predictions - targets) ** 2)


def held_out(params: Params, test: Samples, stop: Samples) -> dict[str, Scalar]:
    """Loss and R^2 on the test set and, where there is one, the loss on the second hold-out."""
    variance = jnp.mean((test[1] - jnp.mean(test[1])) ** 2)
    loss = mean_loss(params, test)
    metrics = {"test/loss": loss, "test/r2": 1.0 - 2.0 * loss / variance}
    return {**metrics, "stop/loss": mean_loss(params, stop)} if len(stop[1]) else metrics
