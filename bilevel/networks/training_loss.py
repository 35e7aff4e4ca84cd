"""The loss of a network in training, as the loss of an inner problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.batches import permuted
from bilevel.foundation import trees
from bilevel.foundation.typing import Batch, HParams, Key, Scalar
from bilevel.networks.trained import Carried, Trained

PRODUCTS = {"float32": "float32", "bfloat16": "BF16_BF16_F32"}  # factors rounded to bfloat16, sums in float32


class Pass(NamedTuple):
    """One forward pass in training mode."""

    value: Scalar
    metrics: dict[str, Any]
    carried: Carried


@dataclass(frozen=True, eq=False)
class TrainingLoss:
    """L(w, s) = loss(model with weights w and state s, hparams, batch) + 1/2 ||s - c||^2, c = s held constant.

    The second term is zero. It makes the optimality condition of the state s - c = 0 with an identity for its
    derivative, so that the linear system of the weights stands alone and the state has the derivative zero. ``batch``
    is the whole inner batch, or ``batch_size`` of its samples, drawn by the key in the state.
    """

    loss: Callable[..., Any]
    has_aux: bool
    batch_size: int
    products: str

    def __call__(self, params: Trained, hparams: HParams, batch: Batch) -> Scalar:
        off = trees.subtract(params.state, jax.lax.stop_gradient(params.state))
        return self.forward(params, hparams, batch).value + 0.5 * trees.dot(off, off)

    def metrics(self, params: Trained, hparams: HParams, batch: Batch) -> dict[str, Any]:
        """The metrics that the loss returns beside its value, at ``params``."""
        return self.forward(params, hparams, batch).metrics

    def advanced(self, params: Trained, hparams: HParams, batch: Batch) -> Trained:
        """``params`` with the state after one forward pass in training mode."""
        return params.with_state(self.forward(params, hparams, batch).carried)

    def forward(self, params: Trained, hparams: HParams, batch: Batch) -> Pass:
        """A pass through the model on the batch of this state."""
        carried = params.carried
        keys = carried.batches
        if self.batch_size:
            keys, own = jax.random.split(carried.batches)
            batch = drawn(own, batch, self.batch_size)
        model = params.network.model(params.weights, carried.network, training=True)
        with jax.default_matmul_precision(PRODUCTS[self.products]):
            found = self.loss(model, hparams, batch)
        value, metrics = found if self.has_aux else (found, {})
        return Pass(value, metrics, Carried(params.network.after(model, carried.network), keys))


def drawn(key: Key, batch: Batch, size: int) -> Batch:
    """``size`` samples of a batch without replacement; samples are counted by the first axis of every leaf."""
    samples = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
    if len(samples) != 1 or size > max(samples):
        raise ValueError(
            f"bl.networks: batch_size={size} samples cannot be drawn from leaves of {sorted(samples)} samples: give an "
            "inner batch of arrays whose first axes have one length, not below batch_size."
        )
    index = permuted(key, jnp.arange(size, dtype=jnp.uint32), samples.pop()).astype(jnp.int32)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], batch)
