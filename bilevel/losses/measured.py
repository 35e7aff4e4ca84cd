"""Losses that also return metrics for the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from bilevel.foundation.stated import checked_metrics
from bilevel.foundation.typing import Batch, HParams, Params, Scalar


@runtime_checkable
class HasMetrics(Protocol):
    """A loss that can also be asked for its metrics."""

    def __call__(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        """The value."""
        ...

    def metrics(self, params: Params, hparams: HParams, batch: Batch) -> dict[str, Any]:
        """Numbers by name."""
        ...


@dataclass(frozen=True, eq=False)
class Measured:
    """loss(w, h, batch) -> (value, {name: number}): a loss of either level whose metrics the log shows.

    An instance is itself a loss, to be used wherever one is asked for: its value is differentiated, and nothing of the
    metrics is. A run computes them once an outer step, at the inner solution, and names them ``train/NAME`` for the
    inner loss and ``validation/NAME`` for the outer one.

    >>> import jax.numpy as jnp, bilevel as bl
    >>> def loss(params, hparams, batch):
    ...     miss = params - batch
    ...     return 0.5 * jnp.sum(miss**2), {"largest": jnp.max(jnp.abs(miss))}
    >>> measured = bl.Measured(loss)
    >>> float(measured(jnp.zeros(2), None, 3.0)), float(measured.metrics(jnp.zeros(2), None, 3.0)["largest"])
    (9.0, 3.0)
    """

    loss: Callable[[Params, HParams, Batch], tuple[Scalar, dict[str, Any]]]

    def __call__(self, params: Params, hparams: HParams, batch: Batch) -> Scalar:
        return self.loss(params, hparams, batch)[0]

    def metrics(self, params: Params, hparams: HParams, batch: Batch) -> dict[str, Any]:
        """The second thing that the loss returns."""
        return self.loss(params, hparams, batch)[1]


def metrics_of(name: str, loss: Callable, params: Params, hparams: HParams, batch: Batch) -> dict[str, Any]:
    """The metrics of a loss, each as ``name/metric``; none where the loss has none."""
    if not isinstance(loss, HasMetrics):
        return {}
    found = checked_metrics(loss, loss.metrics(params, hparams, batch), f"aux of the {name} loss")
    return {f"{name}/{metric}": value for metric, value in found.items()}
